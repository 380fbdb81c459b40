#include "launch/bench_timer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

namespace longship {
namespace {

// Notes its letter and sleeps for the next of `ms`, the last one again and again.
BenchTimer::Work sleeper(std::string& calls, char letter, std::vector<int> ms) {
  return [&calls, letter, ms, next = size_t{0}]() mutable {
    calls += letter;
    std::this_thread::sleep_for(std::chrono::milliseconds(ms[next]));
    next = std::min(next + 1, ms.size() - 1);
  };
}

BenchTimer timer_of(const BenchRounds& rounds) {
  return BenchTimer(Context(), Group::self(), rounds);
}

TEST(BenchTimer, ComparesByTurnsInChangingOrder) {
  std::string calls;
  const BenchTimer timer = timer_of({.num_warmups = 2, .num_rounds = 3});
  const auto times = timer.compare(sleeper(calls, 'a', {100}), sleeper(calls, 'b', {70}));
  EXPECT_EQ(calls, "abbaabbaab");
  EXPECT_NEAR(times.ms, 100, 14);
  EXPECT_NEAR(times.other_ms, 70, 14);
  EXPECT_NEAR(times.difference_ms, 30, 14);
}

TEST(BenchTimer, TakesDifferencesWithinRounds) {
  std::string calls;
  const BenchTimer timer = timer_of({.num_warmups = 1, .num_rounds = 3});
  // The difference of the medians has the wrong sign.
  const auto times = timer.compare(sleeper(calls, 'a', {65, 65, 160, 270}),
                                   sleeper(calls, 'b', {65, 190, 65, 230}));
  EXPECT_NEAR(times.ms, 160, 14);
  EXPECT_NEAR(times.other_ms, 190, 14);
  EXPECT_NEAR(times.difference_ms, 40, 14);
}

TEST(BenchTimer, RepeatsShortWorkAndTimesOneOfIt) {
  std::string calls;
  const BenchTimer timer = timer_of({.num_warmups = 1, .num_rounds = 2});
  const auto times = timer.compare(sleeper(calls, 'a', {5}), sleeper(calls, 'b', {200}));
  const auto num_short = std::ranges::count(calls, 'a');
  EXPECT_GE(num_short, 1 + 2 * 2);  // repeats of 60 ms by a warm-up that may be slow
  EXPECT_LE(num_short, 1 + 2 * 12);
  EXPECT_EQ(std::ranges::count(calls, 'b'), 3);
  EXPECT_NEAR(times.ms, 5, 4);
  EXPECT_NEAR(times.difference_ms, -195, 20);
}

TEST(BenchTimer, MedianIsThatOfTheRoundsAfterWarmUp) {
  std::string calls;
  const BenchTimer timer = timer_of({.num_warmups = 1, .num_rounds = 3});
  EXPECT_NEAR(timer.median_ms(sleeper(calls, 'a', {300, 70, 140, 100})), 100, 14);
  EXPECT_EQ(calls, "aaaa");
}

}  // namespace
}  // namespace longship
