#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/expect_error.h"

namespace longship {
namespace {

using Kind = LearningRateSchedule::Kind;
using Decay = LearningRateSchedule::Decay;
using testing::expect_error;

LearningRateSchedule schedule(Kind kind) {
  return {.kind = kind,
          .peak = 2.0,
          .total_steps = 100,
          .warmup_steps = 10,
          .decay_steps = 20,
          .min_ratio = 0.1};
}

TEST(LearningRate, WarmsUpLinearlyAndNeverStartsAtZero) {
  for (Kind kind : {Kind::kConstant, Kind::kCosine, Kind::kWarmupStableDecay}) {
    EXPECT_DOUBLE_EQ(learning_rate(schedule(kind), 0), 0.2);
    EXPECT_DOUBLE_EQ(learning_rate(schedule(kind), 4), 1.0);
    EXPECT_DOUBLE_EQ(learning_rate(schedule(kind), 9), 2.0);
    EXPECT_DOUBLE_EQ(learning_rate(schedule(kind), 10), 2.0);
  }
}

TEST(LearningRate, CosineFallsFromPeakToItsMinimum) {
  const LearningRateSchedule s = schedule(Kind::kCosine);
  EXPECT_NEAR(learning_rate(s, 55), 2.0 * 0.55, 1e-12);                // half of the way
  EXPECT_NEAR(learning_rate(s, 40), 2.0 * (0.1 + 0.9 * 0.75), 1e-12);  // a third: cos = 1/2
  EXPECT_DOUBLE_EQ(learning_rate(s, 100), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1000), 0.2);
  for (int64_t step = 11; step < 100; ++step)
    EXPECT_LT(learning_rate(s, step), learning_rate(s, step - 1)) << step;
}

TEST(LearningRate, WarmupStableDecayHoldsThePeakUntilItsTail) {
  LearningRateSchedule s = schedule(Kind::kWarmupStableDecay);
  for (int64_t step = 9; step <= 80; ++step) EXPECT_DOUBLE_EQ(learning_rate(s, step), 2.0) << step;
  EXPECT_NEAR(learning_rate(s, 90), 2.0 * 0.55, 1e-12);  // linear, half of the tail
  s.decay = Decay::kOneMinusSqrt;
  EXPECT_NEAR(learning_rate(s, 85), 2.0 * 0.55, 1e-12);  // a quarter of the tail: sqrt = 1/2
  EXPECT_NEAR(learning_rate(s, 90), 2.0 * (0.1 + 0.9 * (1 - std::sqrt(0.5))), 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate(s, 100), 0.2);
}

TEST(LearningRate, StaysConstantAfterWarmupWhenAsked) {
  EXPECT_DOUBLE_EQ(learning_rate(schedule(Kind::kConstant), 99), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(schedule(Kind::kConstant), 100000), 2.0);
}

TEST(LearningRate, WorksWithoutWarmupAndWithoutTail) {
  LearningRateSchedule s = schedule(Kind::kWarmupStableDecay);
  s.warmup_steps = s.decay_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate(s, 0), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(s, 99), 2.0);
  s.kind = Kind::kCosine;
  EXPECT_DOUBLE_EQ(learning_rate(s, 0), 2.0);
  s.warmup_steps = s.total_steps;
  EXPECT_DOUBLE_EQ(learning_rate(s, 99), 2.0);
}

TEST(LearningRate, RefusesSchedulesThatMakeNoSense) {
  auto refused = [](const char* field, auto change) {
    LearningRateSchedule s = schedule(Kind::kWarmupStableDecay);
    change(s);
    expect_error(ErrorCode::kConfig, {field}, [&] { learning_rate(s, 0); });
  };
  refused("peak", [](auto& s) { s.peak = std::nan(""); });
  refused("peak", [](auto& s) { s.peak = -1; });
  refused("min_ratio", [](auto& s) { s.min_ratio = 1.5; });
  refused("total_steps", [](auto& s) { s.total_steps = -1; });
  refused("warmup_steps", [](auto& s) { s.warmup_steps = 101; });
  refused("decay_steps", [](auto& s) { s.decay_steps = 91; });
}

}  // namespace
}  // namespace longship
