#include "runtime/ops/add.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;
using testing::TapeContext;

std::vector<Variable> sum_of_two(Context& ctx, const std::vector<Variable>& inputs) {
  return {add(ctx, inputs[0], inputs[1])};
}

TEST(Add, GradientsEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(sum_of_two,
                           {random_tensor(ctx, {3, 5}, 1), random_tensor(ctx, {3, 5}, 2)});
}

TEST(Add, OfATensorWithItselfDoublesTheGradient) {
  Context ctx;
  testing::check_gradients(
      [](Context& c, const std::vector<Variable>& inputs) {
        return std::vector<Variable>{add(c, inputs[0], inputs[0])};
      },
      {random_tensor(ctx, {7}, 3)});
}

TEST(Add, IsTheRoundedSum) {
  Context ctx;
  const Tensor a = random_tensor(ctx, {37, 11}, 4).to(DType::kBF16);
  const Tensor b = random_tensor(ctx, {37, 11}, 5).to(DType::kBF16);
  const Tensor y = add(ctx, a, b).value();
  for (int64_t i = 0; i < y.numel(); ++i) {
    const float exact =
        static_cast<float>(a.data<bf16>()[i]) + static_cast<float>(b.data<bf16>()[i]);
    EXPECT_EQ(y.data<bf16>()[i].bits, bf16(exact).bits);
  }
}

TEST(Add, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (const Shape& shape : {Shape{1, 1}, Shape{0, 8}, Shape{301, 257}}) {
    const std::vector<Tensor> inputs = {random_tensor(ctx, shape, 6), random_tensor(ctx, shape, 7)};
    testing::check_precision(sum_of_two, inputs);
    testing::check_thread_invariance(sum_of_two, inputs);
  }
}

TEST(Add, KeepsTheGradientsOfItsInputsApart) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Variable a = Variable::leaf(random_tensor(ctx, {4}, 8));
  const Variable b = Variable::leaf(random_tensor(ctx, {4}, 9));
  const Variable y = add(ctx, add(ctx, a, b), a);
  const Tensor ones = ctx.empty({4}, DType::kF64);
  for (int64_t i = 0; i < 4; ++i) ones.data<double>()[i] = 1;
  recorded.tape.backward(ctx, y, ones);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(a.gradient()->sum().data<double>()[i], 2);
    EXPECT_EQ(b.gradient()->sum().data<double>()[i], 1);
  }
}

}  // namespace
}  // namespace longship
