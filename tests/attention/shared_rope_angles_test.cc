#include "attention/shared_rope_angles.h"

#include <gtest/gtest.h>

#include "runtime/long_lived.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;

RopeAngles get(SharedRopeAngles& shared, const Context& ctx, const SequencePlan& plan) {
  return shared.get(ctx, plan, 8, 1e4, DType::kF32);
}

TEST(SharedRopeAngles, AreMadeOnceForAPlan) {
  const Context ctx;
  SharedRopeAngles shared;
  const auto plan = SequencePlan::local({0, 5, 12});
  const RopeAngles first = get(shared, ctx, plan);
  EXPECT_EQ(get(shared, ctx, SequencePlan::local({0, 5, 12})).cos_TR.raw(), first.cos_TR.raw());
  EXPECT_NE(shared.get(ctx, plan, 4, 1e4, DType::kF32).cos_TR.raw(), first.cos_TR.raw());
  const RopeAngles expected = rope_angles(ctx, plan.positions(ctx), 8, 1e4, DType::kF32);
  EXPECT_TRUE(bitwise_equal(first.cos_TR, expected.cos_TR));
  EXPECT_TRUE(bitwise_equal(first.sin_TR, expected.sin_TR));
}

TEST(SharedRopeAngles, OutliveWorkInMemoryOfItsOwnAndAreKeptByIt) {
  const Context ctx;
  SharedRopeAngles shared;
  const auto plan = SequencePlan::local({0, 9});
  LongLived long_lived{.memory = ctx.memory, .used = {}};
  Context apart = ctx;
  apart.memory = std::make_shared<Memory>();
  apart.long_lived = &long_lived;
  std::weak_ptr<const void> angles;
  for (int call = 0; call < 2; ++call) {
    long_lived.used.clear();
    EXPECT_EQ(get(shared, apart, plan).cos_TR.memory(), ctx.memory);
    EXPECT_EQ(apart.memory->live_bytes(), 0);
    ASSERT_EQ(long_lived.used.size(), 1u) << "call " << call;
    angles = long_lived.used[0];
  }
  get(shared, ctx, SequencePlan::local({0, 4}));  // replaces them
  EXPECT_FALSE(angles.expired());
  long_lived.used.clear();
  EXPECT_TRUE(angles.expired());
}

}  // namespace
}  // namespace longship
