#include "attention/linear/head_factors.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

std::vector<Variable> step(Context& ctx, const std::vector<Variable>& in) {
  return {stepped(ctx, in[0], in[1])};
}
std::vector<Variable> skip(Context& ctx, const std::vector<Variable>& in) {
  return {head_skip(ctx, in[0], in[1], in[2])};
}

std::vector<Tensor> step_inputs(Context& ctx, int64_t T, int64_t H, int64_t V) {
  return {random_tensor(ctx, {T, H, V}, 1), random_tensor(ctx, {T, H}, 2)};
}
std::vector<Tensor> skip_inputs(Context& ctx, int64_t T, int64_t H, int64_t V) {
  return {random_tensor(ctx, {T, H, V}, 3), random_tensor(ctx, {T, H, V}, 4),
          random_tensor(ctx, {H}, 5)};
}

TEST(HeadFactors, EqualTheirFormulas) {
  Context ctx;
  const int64_t T = 4, H = 3, V = 5;
  const std::vector<Tensor> a = step_inputs(ctx, T, H, V), b = skip_inputs(ctx, T, H, V);
  const Tensor y = stepped(ctx, a[0], a[1]).value(), z = head_skip(ctx, b[0], b[1], b[2]).value();
  for (int64_t i = 0; i < T * H * V; ++i) {
    EXPECT_EQ(y.data<double>()[i], a[0].data<double>()[i] * a[1].data<double>()[i / V]);
    EXPECT_NEAR(z.data<double>()[i],
                b[0].data<double>()[i] + b[1].data<double>()[i] * b[2].data<double>()[i / V % H],
                1e-14);
  }
}

TEST(HeadFactors, GradientsAreCentralDifferences) {
  Context ctx;
  testing::check_gradients(step, step_inputs(ctx, 4, 3, 5));
  testing::check_gradients(skip, skip_inputs(ctx, 4, 3, 5));
}

TEST(HeadFactors, ArePreciseAndIndependentOfThreads) {
  Context ctx;
  for (int64_t T : {0, 1, 150}) {
    testing::check_precision(step, step_inputs(ctx, T, 3, 33));
    testing::check_precision(skip, skip_inputs(ctx, T, 3, 33));
    testing::check_thread_invariance(step, step_inputs(ctx, T, 3, 33));
    testing::check_thread_invariance(skip, skip_inputs(ctx, T, 3, 33));
  }
}

}  // namespace
}  // namespace longship
