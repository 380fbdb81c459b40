#include "runtime/ops/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

std::vector<Variable> gated(Context& ctx, const std::vector<Variable>& inputs) {
  return {swiglu(ctx, inputs[0], inputs[1])};
}

TEST(Swiglu, GradientsEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(gated,
                           {random_tensor(ctx, {5, 7}, 1, 3.0), random_tensor(ctx, {5, 7}, 2)});
}

TEST(Swiglu, EqualsItsFormula) {
  Context ctx;
  const Tensor gate = random_tensor(ctx, {13, 37}, 3, 4.0).to(DType::kF32);
  const Tensor up = random_tensor(ctx, {13, 37}, 4).to(DType::kF32);
  const Tensor expected = ctx.empty({13, 37}, DType::kF64);
  for (int64_t i = 0; i < gate.numel(); ++i) {
    const double g = static_cast<double>(gate.data<float>()[i]);
    expected.data<double>()[i] = g / (1 + std::exp(-g)) * static_cast<double>(up.data<float>()[i]);
  }
  EXPECT_LE(testing::relative_rms(swiglu(ctx, gate, up).value(), expected), 2e-7);
}

TEST(Swiglu, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (const Shape& shape : {Shape{1, 1}, Shape{0, 8}, Shape{1, 129}, Shape{97, 301}}) {
    const std::vector<Tensor> inputs = {random_tensor(ctx, shape, 5, 3.0),
                                        random_tensor(ctx, shape, 6)};
    testing::check_precision(gated, inputs);
    testing::check_thread_invariance(gated, inputs);
  }
}

TEST(Swiglu, EqualTokensGiveEqualBits) {
  Context ctx;
  const int64_t F = 83;
  const Tensor token = random_tensor(ctx, {2, F}, 7);
  const Tensor gate = ctx.empty({9, F}, DType::kF32);
  const Tensor up = ctx.empty({9, F}, DType::kF32);
  for (int64_t t = 0; t < 9; ++t) {
    gate.slice(0, t, 1).copy_from(token.slice(0, 0, 1));
    up.slice(0, t, 1).copy_from(token.slice(0, 1, 1));
  }
  const Tensor y = swiglu(ctx, gate, up).value();
  for (int64_t t = 1; t < 9; ++t)
    EXPECT_TRUE(testing::bitwise_equal(y.slice(0, t, 1), y.slice(0, 0, 1))) << t;
}

TEST(Swiglu, StaysFiniteAtLargeGates) {
  Context ctx;
  const float values[] = {-1e30f, -200.0f, -88.0f, 88.0f, 200.0f, 1e30f};
  const Tensor gate = Tensor::from<float>(ctx.memory, {6}, values);
  const float ones[] = {1, 1, 1, 1, 1, 1};
  const Tensor y = swiglu(ctx, gate, Tensor::from<float>(ctx.memory, {6}, ones)).value();
  for (int64_t i = 0; i < 6; ++i)
    EXPECT_NEAR(y.data<float>()[i], std::max(values[i], 0.0f), 1e-30f) << values[i];
}

}  // namespace
}  // namespace longship
