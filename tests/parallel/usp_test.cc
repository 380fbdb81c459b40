#include "parallel/usp.h"

#include <gtest/gtest.h>

#include "runtime/error.h"

namespace longship {
namespace {

// (u-1)/u (H + K_u) + (u-1)/u (H + f K_u) + 2 (r-1) K_u + 2 r K_u [r > 1], by hand, times P.
TEST(UspTraffic, IsThatOfAllToAllAndRing) {
  // 8 KV heads on 4 places: none is shared. Times 8: 3/4 (32 + 8) + 3/4 (32 + 8) + 2 8 + 4 8.
  EXPECT_EQ(usp_traffic(32, 8, {.ulysses = 4, .ring = 2}), 8 * (30 + 30 + 16 + 32));
  // No ring.
  EXPECT_EQ(usp_traffic(32, 8, {.ulysses = 8, .ring = 1}), 8 * (35 + 35));
  // No all-to-all: 7 hops with the keys, and with keys and (in fp32) gradients, which go home.
  EXPECT_EQ(usp_traffic(32, 8, {.ulysses = 1, .ring = 8}), 8 * (7 * 8 + 7 * 8 + 2 * 8 * 8));
  // One KV head is sent to both places, and comes back from both in fp32.
  EXPECT_EQ(usp_traffic(4, 1, {.ulysses = 2, .ring = 2}), 4 * (3 + 4 + 4 + 8));
  // Places 0, 1, 2 use 1, 1, 1 of the KV heads 0, 0 and 1, and 1: four of them are dealt.
  EXPECT_EQ(usp_traffic(4, 2, {.ulysses = 3, .ring = 1}), 2 * (4 + 3) + 2 * (4 + 6));
  EXPECT_EQ(usp_traffic(4, 4, {.ulysses = 1, .ring = 1}), 0);
}

TEST(UspDegrees, AreThoseThatSendLeast) {
  struct Case {
    int64_t query, kv;
    int num_ranks;
    UspDegrees expected;
  };
  for (const Case& c : {
           Case{8, 8, 1, {1, 1}},    // one rank
           Case{32, 8, 8, {8, 1}},   // Llama 3 8B: enough heads for ulysses alone
           Case{32, 8, 64, {8, 8}},  // more ranks than heads
           Case{8, 8, 32, {8, 4}},
           Case{8, 1, 8, {1, 8}},  // one KV head: cheaper to pass on than to copy everywhere
           Case{2, 2, 4, {2, 2}},
           Case{28, 4, 8, {4, 2}},  // eight places would not get as many heads each
           Case{6, 3, 4, {2, 2}}, Case{32, 8, 7, {1, 7}},  // a prime that does not divide the heads
           Case{7, 7, 7, {7, 1}},                          // one that does
       })
    EXPECT_EQ(choose_usp_degrees(c.query, c.kv, c.num_ranks), c.expected)
        << c.query << " heads over " << c.kv << ", " << c.num_ranks << " ranks";
}

TEST(UspDegrees, NoOtherEvenShareSendsLess) {
  for (int64_t kv : {1, 2, 3, 4, 8})
    for (int64_t group : {1, 2, 3, 4, 7, 12})
      for (int num_ranks : {1, 2, 3, 4, 6, 8, 12, 36}) {
        const int64_t heads = kv * group;
        const UspDegrees chosen = choose_usp_degrees(heads, kv, num_ranks);
        ASSERT_EQ(chosen.ulysses * chosen.ring, num_ranks);
        ASSERT_EQ(heads % chosen.ulysses, 0);
        const int64_t least = usp_traffic(heads, kv, chosen);
        for (int u = 1; u <= num_ranks; ++u) {
          if (num_ranks % u != 0 || heads % u != 0) continue;
          const int64_t other = usp_traffic(heads, kv, {.ulysses = u, .ring = num_ranks / u});
          EXPECT_TRUE(least < other || (least == other && u <= chosen.ulysses))
              << heads << " heads over " << kv << ", " << num_ranks << " ranks, " << u;
        }
      }
}

TEST(UspDegrees, HeadGroupsThatDoNotDivideAreRefused) {
  EXPECT_THROW(choose_usp_degrees(8, 3, 2), Error);
}

}  // namespace
}  // namespace longship
