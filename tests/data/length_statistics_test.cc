#include "data/length_statistics.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

TEST(LengthStatistics, CountsPercentilesByRank) {
  std::vector<int64_t> lengths;
  for (int64_t i = 200; i >= 1; --i) lengths.push_back(10 * i);
  const LengthStatistics statistics(lengths);
  EXPECT_EQ(statistics.num_documents(), 200);
  EXPECT_EQ(statistics.num_tokens(), 10 * 200 * 201 / 2);
  EXPECT_EQ(statistics.percentile(0), 10);
  EXPECT_EQ(statistics.percentile(50), 1000);
  EXPECT_EQ(statistics.percentile(99), 1980);
  EXPECT_EQ(statistics.percentile(100), 2000);
  EXPECT_EQ(statistics.max(), 2000);
  EXPECT_EQ(LengthStatistics({7, 3}).percentile(50), 3);
  EXPECT_EQ(LengthStatistics({7, 3}).percentile(51), 7);
}

TEST(LengthStatistics, BucketsArePowersOfTwoWithoutGaps) {
  const auto buckets = LengthStatistics({3, 1, 2, 17, 3, 0}).buckets();
  std::vector<std::vector<int64_t>> found;
  for (const auto& bucket : buckets)
    found.push_back({bucket.lower, bucket.num_documents, bucket.num_tokens});
  EXPECT_EQ(found, (std::vector<std::vector<int64_t>>{
                       {0, 1, 0}, {1, 1, 1}, {2, 3, 8}, {4, 0, 0}, {8, 0, 0}, {16, 1, 17}}));
  EXPECT_EQ(LengthStatistics({64, 127}).buckets().size(), 1u);
}

TEST(LengthStatistics, TextShowsEveryBucket) {
  EXPECT_EQ(LengthStatistics({3, 3, 90}).text(),
            "document length in tokens: p50 3  p90 90  p99 90  max 90\n"
            "        length    documents          tokens  share of tokens\n"
            "           < 4            2               6    6.2% ###\n"
            "           < 8            0               0    0.0% \n"
            "          < 16            0               0    0.0% \n"
            "          < 32            0               0    0.0% \n"
            "          < 64            0               0    0.0% \n"
            "         < 128            1              90   93.8% "
            "########################################\n");
}

TEST(LengthStatistics, NoDocumentsAreNoError) {
  const LengthStatistics statistics(std::vector<int64_t>{});
  EXPECT_EQ(statistics.percentile(50), 0);
  EXPECT_EQ(statistics.max(), 0);
  EXPECT_TRUE(statistics.buckets().empty());
  EXPECT_FALSE(statistics.text().empty());
}

}  // namespace
}  // namespace longship
