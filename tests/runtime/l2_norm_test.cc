#include "runtime/ops/l2_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

std::vector<Variable> normed(Context& ctx, const std::vector<Variable>& inputs) {
  return {l2_norm(ctx, inputs[0], 1e-6)};
}

TEST(L2Norm, RowsHaveLengthOne) {
  Context ctx;
  for (int64_t D : {1, 7, 64, 96, 128, 256}) {
    const Tensor x = random_tensor(ctx, {5, D}, 1, 2.0);
    const Tensor y = l2_norm(ctx, x, 1e-6).value();
    for (int64_t r = 0; r < 5; ++r) {
      double square = 0, dot = 0, length = 0;
      for (int64_t d = 0; d < D; ++d) {
        square += std::pow(y.data<double>()[r * D + d], 2);
        length += std::pow(x.data<double>()[r * D + d], 2);
        dot += y.data<double>()[r * D + d] * x.data<double>()[r * D + d];
      }
      EXPECT_NEAR(square, length / (length + 1e-6), 1e-12);
      EXPECT_NEAR(dot, length / std::sqrt(length + 1e-6), 1e-12);
    }
  }
}

TEST(L2Norm, GradientIsCentralDifferencesAlsoOfTinyRows) {
  Context ctx;
  const Tensor x = random_tensor(ctx, {4, 2, 9}, 2);
  for (int64_t i = 0; i < 18; ++i) x.data<double>()[i] *= 1e-2;
  testing::check_gradients(normed, {x}, 1e-5);
}

TEST(L2Norm, OfAZeroRowIsZeroAndItsGradientFinite) {
  Context ctx;
  const testing::OpResult result =
      testing::run_op(normed, {ctx.zeros({2, 16}, DType::kF64)}, DType::kF32);
  EXPECT_EQ(testing::relative_rms(result.outputs[0], ctx.zeros({2, 16}, DType::kF32)), 0);
  check_finite(ctx, "gradient", result.gradients[0]);
}

TEST(L2Norm, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (int64_t D : {5, 96, 256})
    for (int64_t R : {0, 1, 131}) {
      testing::check_precision(normed, {random_tensor(ctx, {R, D}, 3, 3.0)});
      testing::check_thread_invariance(normed, {random_tensor(ctx, {R, D}, 3, 3.0)});
    }
}

}  // namespace
}  // namespace longship
