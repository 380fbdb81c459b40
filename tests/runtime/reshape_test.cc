#include "runtime/ops/reshape.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"

namespace longship {
namespace {

using testing::random_tensor;

TEST(Reshape, SharesStorageAndKeepsOrder) {
  Context ctx;
  const Tensor x = random_tensor(ctx, {6, 4}, 1);
  const Tensor y = reshape(ctx, x, {6, 2, -1}).value();
  EXPECT_EQ(y.shape(), (Shape{6, 2, 2}));
  EXPECT_EQ(y.raw(), x.raw());
}

TEST(Reshape, GradientsEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(
      [](Context& c, const std::vector<Variable>& inputs) {
        return std::vector<Variable>{reshape(c, inputs[0], {5, 6})};
      },
      {random_tensor(ctx, {3, 2, 5}, 2)});
}

TEST(Reshape, PacksAStridedView) {
  Context ctx;
  const Tensor x = random_tensor(ctx, {3, 5}, 3);
  const Tensor y = reshape(ctx, x.transpose(0, 1), {15}).value();
  for (int64_t i = 0; i < 5; ++i)
    for (int64_t j = 0; j < 3; ++j)
      EXPECT_EQ(y.data<double>()[i * 3 + j], x.data<double>()[j * 5 + i]);
}

TEST(Reshape, OfNoTokensWorks) {
  Context ctx;
  EXPECT_EQ(reshape(ctx, ctx.empty({0, 12}, DType::kF32), {0, 3, 4}).shape(), (Shape{0, 3, 4}));
}

}  // namespace
}  // namespace longship
