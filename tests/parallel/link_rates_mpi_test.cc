// What is measured of the links: plausible, quick, and the same on every rank.
// ranks: 2 3 4 8
#include "parallel/link_rates.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>

#include "runtime/seconds_since.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::world;

TEST(LinkRates, AreTheSameOnEveryRankAndPlausible) {
  Context ctx;
  const auto begin = std::chrono::steady_clock::now();
  const LinkRates rates = measure_links(ctx, world());
  const double seconds = seconds_since(begin);
  const std::string mine(reinterpret_cast<const char*>(&rates), sizeof rates);
  for (const std::string& theirs : world().all_gather_bytes("test", mine)) EXPECT_EQ(theirs, mine);
  EXPECT_GT(rates.latency_s, 1e-9);
  EXPECT_LT(rates.latency_s, seconds);
  for (double rate : {rates.shift_bytes_per_s, rates.exchange_bytes_per_s}) {
    EXPECT_GT(rate, (1 << 18) / seconds);  // the larger messages took a part of the time
    EXPECT_LE(rate, 1.01e12);
  }
}

TEST(LinkRates, SendAFewMegabytesAtMost) {
  Context ctx;
  const int64_t before = world().stats().sent_bytes("link_rates");
  measure_links(ctx, world());
  const int64_t sent = world().stats().sent_bytes("link_rates") - before;
  EXPECT_GT(sent, 4 << 19);
  EXPECT_LT(sent, 10 << 19);
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
