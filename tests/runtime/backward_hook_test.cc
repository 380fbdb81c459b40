#include "runtime/autograd/backward_hook.h"

#include <gtest/gtest.h>

#include "runtime/ops/scale.h"

namespace longship {
namespace {

Tensor one(const Context& ctx) {
  const double value = 1;
  return Tensor::from(ctx.memory, {1}, std::span<const double>(&value, 1));
}

TEST(BackwardHook, IsCalledWhenLaterGradientsAreCompleteAndEarlierOnesAreNot) {
  Context ctx;
  Tape tape;
  ctx.tape = &tape;
  const Variable x = Variable::leaf(one(ctx));
  int calls = 0;
  const Variable early = scale(ctx, x, 2.0);
  const Variable passed = backward_hook(ctx, early, [&](Context&) {
    ++calls;
    EXPECT_TRUE(early.gradient()->defined());
    EXPECT_EQ(early.gradient()->sum().data<double>()[0], 3);
    EXPECT_FALSE(x.gradient()->defined());
  });
  tape.backward(ctx, scale(ctx, passed, 3.0));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(x.gradient()->sum().data<double>()[0], 6);
}

TEST(BackwardHook, IsNotRecordedWithoutAGradient) {
  Context ctx;
  Tape tape;
  ctx.tape = &tape;
  const Variable y = backward_hook(ctx, one(ctx), [](Context&) { FAIL(); });
  EXPECT_EQ(tape.num_nodes(), 0u);
  EXPECT_EQ(y.value().data<double>()[0], 1);
}

}  // namespace
}  // namespace longship
