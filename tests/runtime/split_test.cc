#include "runtime/ops/split.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::random_tensor;

const std::vector<int64_t> kSizes = {3, 0, 5, 1};

TEST(Split, TakesFeaturesInOrderAndJoinPutsThemBack) {
  Context ctx;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const Tensor x_THX = random_tensor(ctx, {4, 2, 9}, 1).to(dtype);
    const std::vector<Variable> parts = split(ctx, x_THX, kSizes);
    ASSERT_EQ(parts.size(), kSizes.size());
    int64_t begin = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      EXPECT_EQ(parts[i].shape(), (Shape{4, 2, kSizes[i]}));
      EXPECT_TRUE(bitwise_equal(parts[i].value(), x_THX.slice(2, begin, kSizes[i]).contiguous()));
      begin += kSizes[i];
    }
    EXPECT_TRUE(bitwise_equal(join(ctx, parts).value(), x_THX));
  }
}

TEST(Split, GradientsAreCentralDifferences) {
  testing::TapeContext tape;
  const Tensor x_TX = random_tensor(tape.ctx, {5, 9}, 2);
  testing::check_gradients(
      [](Context& ctx, const std::vector<Variable>& in) { return split(ctx, in[0], kSizes); },
      {x_TX});
  testing::check_gradients(
      [](Context& ctx, const std::vector<Variable>& in) {
        return std::vector<Variable>{join(ctx, in)};
      },
      {x_TX, random_tensor(tape.ctx, {5, 1}, 3), random_tensor(tape.ctx, {5, 4}, 4)});
}

TEST(Split, APartThatNobodyUsesGetsNoGradient) {
  testing::TapeContext tape;
  const Variable x_TX = Variable::leaf(random_tensor(tape.ctx, {2, 9}, 2).to(DType::kF32));
  const Variable part = split(tape.ctx, x_TX, kSizes)[2];
  tape.tape.backward(tape.ctx, part, random_tensor(tape.ctx, {2, 5}, 3).to(DType::kF32));
  const Tensor gradient = x_TX.gradient()->sum();
  for (int64_t t = 0; t < 2; ++t)
    for (int64_t i = 0; i < 9; ++i)
      EXPECT_EQ(gradient.data<float>()[t * 9 + i] != 0, i >= 3 && i < 8) << t << " " << i;
}

TEST(Split, RefusesSizesThatDoNotAddUpAndPartsThatDoNotFit) {
  Context ctx;
  const Variable x_TX = random_tensor(ctx, {5, 9}, 2);
  EXPECT_THROW(split(ctx, x_TX, std::vector<int64_t>{3, 5}), Error);
  EXPECT_THROW(split(ctx, x_TX, std::vector<int64_t>{10, -1}), Error);
  EXPECT_THROW(join(ctx, {}), Error);
  EXPECT_THROW(join(ctx, {x_TX, random_tensor(ctx, {4, 9}, 2)}), Error);
  EXPECT_THROW(join(ctx, {x_TX, random_tensor(ctx, {5, 9}, 2).to(DType::kF32)}), Error);
}

}  // namespace
}  // namespace longship
