#include "parallel/head_exchange.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

#include "runtime/error.h"

namespace longship {
namespace {

TEST(DealHeads, EveryHeadIsOnOneRankWithTheKeyValueHeadsItUses) {
  struct Heads {
    int64_t query, kv;
  };
  for (Heads heads : {Heads{8, 8}, {8, 2}, {8, 1}, {6, 3}, {5, 5}, {1, 1}, {12, 4}, {7, 1}})
    for (int num_ranks : {1, 2, 3, 4, 5, 8, 13}) {
      SCOPED_TRACE(fmt::format("{} over {} heads, {} ranks", heads.query, heads.kv, num_ranks));
      const auto shares = deal_heads(heads.query, heads.kv, num_ranks);
      ASSERT_EQ(shares.size(), static_cast<size_t>(num_ranks));
      int64_t next = 0;
      for (int rank = 0; rank < num_ranks; ++rank) {
        const HeadShare& share = shares[static_cast<size_t>(rank)];
        EXPECT_EQ(share.query.begin, next);
        EXPECT_LE(std::abs(share.query.count * num_ranks - heads.query), num_ranks - 1);
        next = share.query.end();
        std::set<int64_t> used, sent;
        for (int64_t h = share.query.begin; h < share.query.end(); ++h)
          used.insert(h / (heads.query / heads.kv));
        for (int64_t h = share.kv.begin; h < share.kv.end(); ++h) sent.insert(h);
        EXPECT_EQ(sent, used);
      }
      EXPECT_EQ(next, heads.query);
    }
}

TEST(NumGroupsThatPay, FallsWithTheWorkThatAMessageBrings) {
  auto gpu = [](int64_t tokens, int64_t heads, double keys) {
    return num_groups_that_pay(DeviceKind::kCuda, tokens * heads, keys);
  };
  // One causal document, 16 heads a rank.
  EXPECT_EQ(gpu(8 << 10, 16, 4 << 10), 1) << "two would leave multiprocessors idle";
  EXPECT_EQ(gpu(16 << 10, 16, 8 << 10), 2);
  EXPECT_EQ(gpu(64 << 10, 16, 32 << 10), 2);
  EXPECT_EQ(gpu(128 << 10, 16, 64 << 10), 1);
  // The same tokens in short documents.
  EXPECT_EQ(gpu(128 << 10, 16, 4 << 10), 4);
  EXPECT_EQ(gpu(128 << 10, 16, 20 << 10), 2);
  EXPECT_EQ(gpu(0, 0, 0), 1);

  auto cpu = [](int64_t head_rows) {
    return num_groups_that_pay(DeviceKind::kCpu, head_rows, 1 << 20);
  };
  EXPECT_EQ(cpu(100), 1);
  EXPECT_EQ(cpu(3 * 1024), 3);
  EXPECT_EQ(cpu(100 * 1024), 4);
}

TEST(InGroups, EveryRankHasWholeKeyValueHeadsInEveryGroup) {
  for (const auto& [num_heads, num_kv_heads, num_ranks, num_groups] :
       std::vector<std::array<int64_t, 4>>{{8, 8, 1, 4},
                                           {9, 9, 2, 4},
                                           {9, 9, 4, 2},
                                           {16, 8, 4, 2},
                                           {10, 5, 1, 4},
                                           {5, 5, 4, 1},
                                           {8, 2, 2, 1},
                                           {8, 2, 4, 1},     // shared by two ranks each
                                           {12, 4, 3, 1},    // cut within a KV head
                                           {2, 2, 3, 1}}) {  // a rank without heads
    SCOPED_TRACE(fmt::format("{} over {} heads, {} ranks", num_heads, num_kv_heads, num_ranks));
    const auto shares = deal_heads(num_heads, num_kv_heads, static_cast<int>(num_ranks));
    const auto groups = in_groups(shares, 4);
    ASSERT_EQ(std::ssize(groups), num_groups);
    if (num_groups == 1) {
      EXPECT_EQ(groups[0], shares);
      continue;
    }
    for (size_t rank = 0; rank < shares.size(); ++rank) {
      int64_t next_query = shares[rank].query.begin, next_kv = shares[rank].kv.begin;
      for (const auto& group : groups) {
        const HeadShare& part = group.at(rank);
        EXPECT_EQ(part.query.begin, next_query);
        EXPECT_EQ(part.kv.begin, next_kv);
        EXPECT_GE(part.kv.count, 1);
        EXPECT_EQ(part.query.count, part.kv.count * (num_heads / num_kv_heads));
        next_query = part.query.end();
        next_kv = part.kv.end();
      }
      EXPECT_EQ(next_query, shares[rank].query.end());
      EXPECT_EQ(next_kv, shares[rank].kv.end());
    }
  }
}

TEST(DealHeads, GroupsThatDoNotDivideAreRefused) {
  EXPECT_THROW(deal_heads(8, 3, 2), Error);
  EXPECT_THROW(deal_heads(8, 0, 2), Error);
}

}  // namespace
}  // namespace longship
