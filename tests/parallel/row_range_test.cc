#include "parallel/row_range.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

TEST(RowRange, CoverIsTheSmallestRangeOfBoth) {
  EXPECT_EQ(cover({3, 2}, {8, 1}), (RowRange{3, 6}));
  EXPECT_EQ(cover({8, 1}, {3, 2}), (RowRange{3, 6}));
  EXPECT_EQ(cover({3, 9}, {5, 2}), (RowRange{3, 9}));
  // A range of no rows adds nothing, wherever it is.
  EXPECT_EQ(cover({0, 0}, {5, 2}), (RowRange{5, 2}));
  EXPECT_EQ(cover({5, 2}, {90, 0}), (RowRange{5, 2}));
}

TEST(RowRange, JoinedRangesAscendAndDoNotTouch) {
  const std::vector<RowRange> ranges = {{7, 2}, {3, 1}, {20, 0}, {4, 2}, {8, 3}, {8, 1}, {12, 1}};
  EXPECT_EQ(joined(ranges), (std::vector<RowRange>{{3, 3}, {7, 4}, {12, 1}}));
  EXPECT_TRUE(joined(std::vector<RowRange>{}).empty());
}

}  // namespace
}  // namespace longship
