#include "parallel/head_exchange.h"

#include <gtest/gtest.h>

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

TEST(DealHeads, GroupsThatDoNotDivideAreRefused) {
  EXPECT_THROW(deal_heads(8, 3, 2), Error);
  EXPECT_THROW(deal_heads(8, 0, 2), Error);
}

}  // namespace
}  // namespace longship
