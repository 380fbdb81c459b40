#include "runtime/ops/silu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

std::vector<Variable> activated(Context& ctx, const std::vector<Variable>& inputs) {
  return {silu(ctx, inputs[0])};
}

TEST(Silu, EqualsItsFormula) {
  Context ctx;
  const Tensor x = random_tensor(ctx, {13, 37}, 1, 4.0);
  const Tensor expected = x.clone();
  for (int64_t i = 0; i < x.numel(); ++i)
    expected.data<double>()[i] /= 1 + std::exp(-x.data<double>()[i]);
  EXPECT_LE(testing::relative_rms(silu(ctx, x).value(), expected), 1e-15);
}

TEST(Silu, GradientIsCentralDifferences) {
  Context ctx;
  testing::check_gradients(activated, {random_tensor(ctx, {5, 7}, 2, 3.0)});
}

TEST(Silu, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (const Shape& shape : {Shape{1, 1}, Shape{0, 8}, Shape{97, 301}}) {
    testing::check_precision(activated, {random_tensor(ctx, shape, 3, 3.0)});
    testing::check_thread_invariance(activated, {random_tensor(ctx, shape, 3, 3.0)});
  }
}

}  // namespace
}  // namespace longship
