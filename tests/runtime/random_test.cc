#include "runtime/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace longship {
namespace {

// Known answers of the Random123 distribution (kat_vectors, philox4x32-10). Its key is (low, high)
// of our seed, its counter (index, stream), each low word first.
TEST(Philox, GivesTheKnownAnswersOfRandom123) {
  EXPECT_EQ(philox(0, 0, 0), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint64_t ones = ~uint64_t{0};
  EXPECT_EQ(philox(ones, ones, ones),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, EachOfSeedStreamAndIndexChangesTheValue) {
  std::set<double> seen;
  for (uint64_t seed = 0; seed < 10; ++seed)
    for (uint64_t stream = 0; stream < 10; ++stream)
      for (uint64_t index = 0; index < 10; ++index) seen.insert(uniform(seed, stream, index));
  EXPECT_EQ(seen.size(), 1000u);
  // The high words count as well.
  const uint64_t high = uint64_t{1} << 40;
  EXPECT_NE(uniform(1, 2, 3), uniform(1 + high, 2, 3));
  EXPECT_NE(uniform(1, 2, 3), uniform(1, 2 + high, 3));
  EXPECT_NE(uniform(1, 2, 3), uniform(1, 2, 3 + high));
}

TEST(Random, DoesNotDependOnTheOrderOfCalls) {
  std::vector<double> forward, backward;
  for (uint64_t i = 0; i < 100; ++i) forward.push_back(normal(5, 6, i));
  for (uint64_t i = 100; i-- > 0;) backward.push_back(normal(5, 6, i));
  std::reverse(backward.begin(), backward.end());
  EXPECT_EQ(forward, backward);
}

// Sample moments of n values lie within five standard errors of the true ones.
TEST(Random, NormalHasTheMomentsOfAStandardNormal) {
  const int n = 200000;
  double moments[5] = {};
  for (int i = 0; i < n; ++i) {
    const double x = normal(1, 2, static_cast<uint64_t>(i));
    ASSERT_TRUE(std::isfinite(x));
    double power = 1;
    for (double& moment : moments) {
      moment += power / n;
      power *= x;
    }
  }
  const double sigma = 5 / std::sqrt(static_cast<double>(n));
  EXPECT_NEAR(moments[1], 0, sigma);
  EXPECT_NEAR(moments[2], 1, sigma * std::sqrt(2.0));
  EXPECT_NEAR(moments[3], 0, sigma * std::sqrt(15.0));
  EXPECT_NEAR(moments[4], 3, sigma * std::sqrt(96.0));
}

TEST(Random, UniformFillsTheUnitIntervalEvenlyAndIsNeverZero) {
  const int n = 160000, num_bins = 16;
  std::vector<int> bins(num_bins);
  double previous = 0.5, product = 0;
  for (int i = 0; i < n; ++i) {
    const double x = uniform(3, 4, static_cast<uint64_t>(i));
    ASSERT_GT(x, 0);
    ASSERT_LE(x, 1);
    ++bins[std::min(static_cast<int>(x * num_bins), num_bins - 1)];
    product += (x - 0.5) * (previous - 0.5) / n;
    previous = x;
  }
  const double expected = static_cast<double>(n) / num_bins;
  for (int count : bins) EXPECT_NEAR(count, expected, 5 * std::sqrt(expected));
  // Neighbours are uncorrelated.
  EXPECT_NEAR(product, 0, 5.0 / 12 / std::sqrt(static_cast<double>(n)));
}

TEST(Random, UniformIndexStaysBelowItsBoundAndReachesAll) {
  std::vector<int> counts(7);
  for (uint64_t i = 0; i < 7000; ++i) ++counts[uniform_index(1, 2, i, 7)];
  for (int count : counts) EXPECT_NEAR(count, 1000, 150);
  const uint64_t huge = ~uint64_t{0};
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(uniform_index(1, 2, i, 1), 0u);
    EXPECT_LT(uniform_index(1, 2, i, huge), huge);
  }
}

TEST(StreamOf, IsFnv1a) {
  EXPECT_EQ(stream_of(""), 0xcbf29ce484222325u);
  EXPECT_EQ(stream_of("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(stream_of("foobar"), 0x85944171f73967e8u);
}

}  // namespace
}  // namespace longship
