#include "runtime/ops/sigmoid_gate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

std::vector<Variable> gated(Context& ctx, const std::vector<Variable>& inputs) {
  return {sigmoid_gate(ctx, inputs[0], inputs[1])};
}

TEST(SigmoidGate, GradientsEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(gated,
                           {random_tensor(ctx, {5, 2, 7}, 1), random_tensor(ctx, {5, 2, 7}, 2, 3)});
}

TEST(SigmoidGate, EqualsItsFormula) {
  Context ctx;
  const Tensor x = random_tensor(ctx, {13, 37}, 3).to(DType::kF32);
  const Tensor gate = random_tensor(ctx, {13, 37}, 4, 4.0).to(DType::kF32);
  const Tensor expected = ctx.empty({13, 37}, DType::kF64);
  for (int64_t i = 0; i < gate.numel(); ++i)
    expected.data<double>()[i] = static_cast<double>(x.data<float>()[i]) /
                                 (1 + std::exp(-static_cast<double>(gate.data<float>()[i])));
  EXPECT_LE(testing::relative_rms(sigmoid_gate(ctx, x, gate).value(), expected), 2e-7);
}

TEST(SigmoidGate, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (const Shape& shape : {Shape{1, 1}, Shape{0, 8}, Shape{3, 1, 129}, Shape{97, 301}}) {
    const std::vector<Tensor> inputs = {random_tensor(ctx, shape, 5),
                                        random_tensor(ctx, shape, 6, 3.0)};
    testing::check_precision(gated, inputs);
    testing::check_thread_invariance(gated, inputs);
  }
}

TEST(SigmoidGate, StaysFiniteAtLargeGates) {
  Context ctx;
  const float gates[] = {-1e30f, -200.0f, 200.0f, 1e30f}, ones[] = {1, 1, 1, 1};
  const Tensor y = sigmoid_gate(ctx, Tensor::from<float>(ctx.memory, {4}, ones),
                                Tensor::from<float>(ctx.memory, {4}, gates))
                       .value();
  for (int64_t i = 0; i < 4; ++i) EXPECT_NEAR(y.data<float>()[i], i < 2 ? 0.0f : 1.0f, 1e-30f);
}

}  // namespace
}  // namespace longship
