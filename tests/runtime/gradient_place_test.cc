// Sums of gradients that stay where they are from step to step.
#include <gtest/gtest.h>

#include "runtime/autograd/variable.h"
#include "runtime/ops/linear.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::random_tensor;

Tensor values(Context& ctx, std::initializer_list<float> list) {
  return Tensor::from<float>(ctx.memory, {static_cast<int64_t>(list.size())},
                             std::span(list.begin(), list.size()));
}

TEST(GradientPlace, IsThatOfTheNextSumToo) {
  Context ctx;
  Gradient gradient({3}, DType::kF32);
  gradient.keep_place(true);
  EXPECT_EQ(gradient.place(), nullptr);
  const Tensor first = values(ctx, {1, 2, 3});
  gradient.add(ctx, first);
  const void* const place = gradient.place();
  ASSERT_NE(place, nullptr);
  EXPECT_NE(place, first.address()) << "a contribution is copied";
  gradient.add(ctx, first);
  EXPECT_EQ(gradient.place(), place);
  EXPECT_TRUE(bitwise_equal(gradient.sum(), values(ctx, {2, 4, 6})));

  gradient.clear();
  gradient.clear();
  EXPECT_FALSE(gradient.defined());
  EXPECT_EQ(gradient.place(), place);
  const Tensor other = ctx.zeros({3}, DType::kF32);  // finds room elsewhere
  EXPECT_NE(other.address(), place);
  gradient.add(ctx, values(ctx, {7, 8, 9}));
  EXPECT_EQ(gradient.sum().address(), place);
  EXPECT_TRUE(bitwise_equal(gradient.sum(), values(ctx, {7, 8, 9})));

  gradient.clear();
  EXPECT_TRUE(bitwise_equal(gradient.accumulate_into(ctx), values(ctx, {0, 0, 0})));
  EXPECT_EQ(gradient.place(), place);

  gradient.clear();
  const Gradient::Update update = gradient.begin_update(ctx);
  EXPECT_FALSE(update.before.defined());
  EXPECT_EQ(update.after.address(), place);
}

TEST(GradientPlace, IsOpenWhileOthersViewTheSum) {
  Context ctx;
  Gradient gradient({2}, DType::kF32);
  gradient.keep_place(true);
  gradient.add(ctx, values(ctx, {1, 2}));
  const Tensor view = gradient.sum();
  EXPECT_EQ(gradient.place(), nullptr);
  gradient.clear();
  EXPECT_EQ(gradient.place(), nullptr);
  gradient.add(ctx, values(ctx, {3, 4}));
  EXPECT_NE(gradient.sum().address(), view.address());
  EXPECT_TRUE(bitwise_equal(view, values(ctx, {1, 2})));
}

TEST(GradientPlace, IsGivenUpWhenNobodyAsksForItAnyMore) {
  Context ctx;
  const int64_t before = ctx.memory->live_bytes();
  Gradient gradient({100}, DType::kF32);
  gradient.keep_place(true);
  gradient.accumulate_into(ctx);
  gradient.clear();
  EXPECT_GT(ctx.memory->live_bytes(), before);
  gradient.keep_place(false);
  EXPECT_EQ(ctx.memory->live_bytes(), before);
  EXPECT_EQ(gradient.place(), nullptr);
}

// Of a product that adds to the sum itself, in two steps of two contributions.
TEST(GradientPlace, ChangesNoBits) {
  Context ctx;
  const Tensor x_TI = random_tensor(ctx, {5, 4}, 1).to(DType::kF32);
  const Tensor y_TO = random_tensor(ctx, {5, 3}, 2).to(DType::kF32);
  const Variable plain = Variable::leaf(random_tensor(ctx, {3, 4}, 3).to(DType::kF32));
  const Variable placed = Variable::leaf(plain.value());
  placed.gradient()->keep_place(true);
  const void* place = nullptr;
  for (int step = 0; step < 2; ++step) {
    for (const Variable* w_OI : {&plain, &placed}) {
      w_OI->gradient()->clear();
      for (int n = 0; n < 2; ++n) {
        Tape tape;
        Context recording = ctx;
        recording.tape = &tape;
        const Variable out = linear(recording, x_TI, *w_OI);
        tape.backward(recording, out, y_TO);
      }
    }
    EXPECT_TRUE(bitwise_equal(placed.gradient()->sum(), plain.gradient()->sum()));
    if (step == 1) {
      EXPECT_EQ(placed.gradient()->place(), place);
    }
    place = placed.gradient()->place();
  }
}

}  // namespace
}  // namespace longship
