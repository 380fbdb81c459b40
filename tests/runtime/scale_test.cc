#include "runtime/ops/scale.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

std::vector<Variable> by_a_third(Context& ctx, const std::vector<Variable>& inputs) {
  return {scale(ctx, inputs[0], -1.0 / 3)};
}

TEST(Scale, GradientsEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(by_a_third, {random_tensor(ctx, {3, 5}, 1)});
}

TEST(Scale, RoundsTheProductOnce) {
  Context ctx;
  const Tensor x = random_tensor(ctx, {37, 11}, 2).to(DType::kBF16);
  const Tensor y = scale(ctx, x, 0.3).value();
  for (int64_t i = 0; i < y.numel(); ++i)
    EXPECT_EQ(y.data<bf16>()[i].bits, bf16(0.3f * static_cast<float>(x.data<bf16>()[i])).bits);
}

TEST(Scale, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (const Shape& shape : {Shape{1, 1}, Shape{0, 8}, Shape{301, 257}}) {
    const std::vector<Tensor> inputs = {random_tensor(ctx, shape, 3)};
    testing::check_precision(by_a_third, inputs);
    testing::check_thread_invariance(by_a_third, inputs);
  }
}

}  // namespace
}  // namespace longship
