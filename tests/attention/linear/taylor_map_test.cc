#include "attention/linear/taylor_map.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

std::vector<Variable> mapped(Context& ctx, const std::vector<Variable>& in) {
  return {taylor_map(ctx, in[0])};
}
std::vector<Variable> divided(Context& ctx, const std::vector<Variable>& in) {
  return {divided_by_last(ctx, in[0])};
}

// Outputs whose last column is positive, as sums of weights are.
Tensor with_positive_sums(Context& ctx, Shape shape) {
  const Tensor o = random_tensor(ctx, shape, 3);
  const int64_t W = shape.back();
  for (int64_t i = W - 1; i < o.numel(); i += W)
    o.data<double>()[i] = 0.5 + std::abs(o.data<double>()[i]);
  return o;
}

TEST(TaylorMap, ProductsAreTheSeriesOfTheExponential) {
  Context ctx;
  for (int64_t D : {1, 3, 16}) {
    const Tensor q = random_tensor(ctx, {4, 2, D}, 1), k = random_tensor(ctx, {4, 2, D}, 2);
    const Tensor phi_q = taylor_map(ctx, q).value(), phi_k = taylor_map(ctx, k).value();
    const int64_t P = 1 + D + D * D;
    ASSERT_EQ(phi_q.shape(), (Shape{4, 2, P}));
    for (int64_t row = 0; row < 8; ++row) {
      double product = 0, s = 0;
      for (int64_t p = 0; p < P; ++p)
        product += phi_q.data<double>()[row * P + p] * phi_k.data<double>()[row * P + p];
      for (int64_t d = 0; d < D; ++d)
        s += q.data<double>()[row * D + d] * k.data<double>()[row * D + d];
      s /= std::sqrt(static_cast<double>(D));
      EXPECT_NEAR(product, 1 + s + s * s / 2, 1e-12);
    }
  }
}

TEST(TaylorMap, GradientsAreCentralDifferences) {
  Context ctx;
  testing::check_gradients(mapped, {random_tensor(ctx, {3, 2, 5}, 1)});
  testing::check_gradients(divided, {with_positive_sums(ctx, {3, 2, 6})}, 1e-5);
}

TEST(TaylorMap, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (int64_t T : {0, 1, 61}) {
    testing::check_precision(mapped, {random_tensor(ctx, {T, 3, 7}, 1)});
    testing::check_precision(divided, {with_positive_sums(ctx, {T, 3, 18})});
    testing::check_thread_invariance(mapped, {random_tensor(ctx, {T, 3, 7}, 1)});
    testing::check_thread_invariance(divided, {with_positive_sums(ctx, {T, 3, 18})});
  }
}

TEST(TaylorMap, ColumnOfOnesFollowsTheValues) {
  Context ctx;
  const Tensor v = random_tensor(ctx, {2, 3, 4}, 1);
  const Tensor y = with_ones(ctx, v).value();
  EXPECT_TRUE(testing::bitwise_equal(y.slice(2, 0, 4), v));
  for (int64_t i = 4; i < y.numel(); i += 5) EXPECT_EQ(y.data<double>()[i], 1);
  EXPECT_TRUE(testing::bitwise_equal(divided_by_last(ctx, y).value(), v));
}

}  // namespace
}  // namespace longship
