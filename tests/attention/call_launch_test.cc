#include "attention/call_launch.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/dice.h"

namespace longship {
namespace {

bool sees(const CallMask& mask, const CallEntry& entry, int64_t i, int64_t j) {
  const int64_t x = j - (i + entry.k_length - entry.q_length);
  return (!mask.left || x > -*mask.left) && (!mask.right || x <= *mask.right);
}

bool sees(const LaunchBand& band, const CallEntry& entry, int64_t i, int64_t j) {
  const int64_t x = j - i - (band.bottom_right ? entry.k_length - entry.q_length : 0);
  return (!band.left || x > -*band.left) && (!band.right || x <= *band.right);
}

// Fails the test unless each entry of the call is in one launch, where its queries see what they
// see in the call.
void expect_same_attention(const AttentionCall& call, const std::vector<CallLaunch>& launches) {
  std::vector<CallEntry> launched;
  for (const CallLaunch& launch : launches) {
    ASSERT_FALSE(launch.entries.empty());
    EXPECT_TRUE(!launch.dense || launch.entries.size() == 1);
    for (const CallEntry& entry : launch.entries) {
      launched.push_back(entry);
      for (int64_t i = 0; i < entry.q_length; ++i)
        for (int64_t j = 0; j < entry.k_length; ++j)
          ASSERT_EQ(sees(launch.band, entry, i, j), sees(call.mask, entry, i, j))
              << entry.q_length << " x " << entry.k_length << " at " << i << ", " << j;
    }
  }
  std::sort(launched.begin(), launched.end(),
            [](const CallEntry& a, const CallEntry& b) { return a.q_begin < b.q_begin; });
  EXPECT_EQ(launched, call.entries);
}

TEST(CallLaunch, ComputesWhatTheCallSays) {
  testing::Dice dice(7);
  for (int repeat = 0; repeat < 300; ++repeat) {
    AttentionCall call;
    if (dice.below(3) > 0) call.mask.right = dice.below(3) == 0 ? dice.below(40) : 0;
    if (dice.below(2) > 0) call.mask.left = 1 + dice.below(60);
    int64_t q_begin = 0, k_begin = 0;
    for (int64_t n = 1 + dice.below(5); n > 0; --n) {
      const bool is_square = dice.below(2) > 0;
      const int64_t q_length = 1 + dice.below(60);
      const int64_t k_length = is_square ? q_length : q_length + dice.below(60);
      call.entries.push_back({q_begin, q_length, k_begin, k_length});
      q_begin += q_length + dice.below(3);
      k_begin += k_length + dice.below(3);
    }
    expect_same_attention(call, forward_launches(call));
    expect_same_attention(call, backward_launches(call));
    const auto separate = separate_backward_launches(call);
    expect_same_attention(call, separate);
    EXPECT_EQ(separate.size(), call.entries.size());
  }
}

TEST(CallLaunch, BackwardOfSquaresStartsInTheTopLeftCorner) {
  for (const CallMask& mask : {CallMask::causal(), CallMask::causal_window(20)}) {
    const auto launches = backward_launches({mask, {{0, 100, 0, 100}, {100, 50, 100, 50}}});
    ASSERT_EQ(launches.size(), 1u);
    EXPECT_FALSE(launches[0].band.bottom_right);
    EXPECT_EQ(launches[0].band.left, mask.left);
    EXPECT_EQ(launches[0].band.right, mask.right);
  }
}

TEST(CallLaunch, BackwardOfAWindowWithItsHaloStartsInTheTopLeftCorner) {
  const int64_t window = 64;
  const auto launches =
      backward_launches({CallMask::causal_window(window), {{0, 1000, 0, 1000 + window - 1}}});
  ASSERT_EQ(launches.size(), 1u);
  EXPECT_EQ(launches[0].band, (LaunchBand{.left = 1, .right = window - 1}));
}

TEST(CallLaunch, BackwardHasALaunchForEachShift) {
  const AttentionCall call{CallMask::causal(),
                           {{0, 100, 0, 100}, {100, 50, 100, 80}, {150, 30, 180, 30}}};
  EXPECT_EQ(backward_launches(call).size(), 2u);
  EXPECT_EQ(forward_launches(call).size(), 1u);
  EXPECT_EQ(backward_launches({CallMask::full(), call.entries}).size(), 1u);
}

TEST(CallLaunch, BoundsThatHideNothingAreLeftOut) {
  const std::vector<CallEntry> entries = {{0, 100, 0, 100}, {100, 50, 100, 50}};
  EXPECT_EQ(forward_launches({CallMask::causal_window(100), entries})[0].band,
            (LaunchBand{.right = 0}));
  EXPECT_EQ(forward_launches({CallMask::causal_window(99), entries})[0].band,
            (LaunchBand{.left = 99, .right = 0}));
  EXPECT_EQ(forward_launches({{.left = 500, .right = 99}, entries})[0].band, LaunchBand{});
}

TEST(CallLaunch, LongEntriesOfWholeTilesAreDense) {
  const CallEntry whole{0, 8192, 0, 8192}, next{8192, 8192, 8192, 8192}, odd{16384, 77, 16384, 77};
  const auto launches = backward_launches({CallMask::causal(), {whole, next, odd}});
  ASSERT_EQ(launches.size(), 3u);
  EXPECT_TRUE(launches[0].dense && launches[1].dense);
  EXPECT_FALSE(launches[2].dense);
  EXPECT_TRUE(forward_launches({CallMask::causal(), {{0, 128, 0, 256}}})[0].dense);
  EXPECT_FALSE(forward_launches({CallMask::causal(), {{0, 128, 0, 200}}})[0].dense);
  // Of these cuDNN takes no dense ones.
  EXPECT_FALSE(forward_launches({CallMask::causal_window(64), {{0, 256, 0, 128}}})[0].dense);
}

}  // namespace
}  // namespace longship
