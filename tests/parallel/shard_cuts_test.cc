#include "parallel/shard_cuts.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/model/parameter.h"
#include "tests/support/dice.h"

namespace longship {
namespace {

bool may_cut(const std::vector<FlatPlace>& places, int64_t size, int64_t cut) {
  if (cut == 0 || cut == size) return true;
  return std::ranges::any_of(places, [&](const FlatPlace& place) {
    return cut >= place.begin && (cut == place.begin || cut < place.end()) &&
           (cut - place.begin) % kPieceElements == 0;
  });
}

TEST(ShardCuts, SplitALongParameterEvenlyAtMultiples) {
  const std::vector<FlatPlace> places = {{0, 8 * kPieceElements + 5}};
  EXPECT_EQ(shard_cuts(places, places[0].end(), 4),
            (std::vector<int64_t>{0, 2 * kPieceElements, 4 * kPieceElements, 6 * kPieceElements,
                                  8 * kPieceElements + 5}));
}

TEST(ShardCuts, LeaveShortParametersWhole) {
  const std::vector<FlatPlace> places = {{0, 7}, {128, 1}, {256, 100}};
  EXPECT_EQ(shard_cuts(places, 356, 2), (std::vector<int64_t>{0, 128, 356}));
  EXPECT_EQ(shard_cuts(std::vector<FlatPlace>{{0, 3}}, 3, 4),
            (std::vector<int64_t>{0, 0, 0, 3, 3}));
}

TEST(ShardCuts, FallOnAllowedPlacesNearAnEqualShare) {
  testing::Dice dice(3);
  const auto between = [&](int64_t low, int64_t high) { return low + dice.below(high - low + 1); };
  for (int round = 0; round < 300; ++round) {
    std::vector<FlatPlace> places;
    int64_t size = 0;
    for (int64_t n = between(1, 8); n > 0; --n) {
      const int64_t count =
          dice.one_in(2) ? between(1, 300) : between(1, 5) * kPieceElements + between(-1, 1);
      places.push_back({(size + 127) / 128 * 128, count});
      size = places.back().end();
    }
    const auto num_ranks = static_cast<int>(between(1, 9));
    const std::vector<int64_t> cuts = shard_cuts(places, size, num_ranks);
    ASSERT_EQ(std::ssize(cuts), num_ranks + 1);
    EXPECT_TRUE(std::ranges::is_sorted(cuts));
    EXPECT_EQ(cuts.front(), 0);
    EXPECT_EQ(cuts.back(), size);
    for (int64_t r = 0; r < num_ranks; ++r) {
      EXPECT_TRUE(may_cut(places, size, cuts[static_cast<size_t>(r)]));
      EXPECT_LE(std::abs(cuts[static_cast<size_t>(r)] - size * r / num_ranks),
                kPieceElements / 2 + 128);
    }
  }
}

}  // namespace
}  // namespace longship
