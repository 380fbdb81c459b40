#include "runtime/parallel_for.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "tests/support/expect_error.h"

namespace longship {
namespace {

TEST(ParallelFor, CoversEachIndexOnceInRangesOfAtLeastTheGrain) {
  for (const int num_threads : {1, 2, 3, 8})
    for (const int64_t count : {0, 1, 7, 64, 1001})
      for (const int64_t grain : {1, 5, 64, 5000}) {
        Context ctx;
        ctx.num_threads = num_threads;
        std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
        std::atomic<int> num_ranges = 0;
        std::atomic<bool> too_small = false;
        parallel_for(ctx, count, grain, [&](int64_t begin, int64_t end) {
          ++num_ranges;
          if (end - begin < std::min(grain, count)) too_small = true;
          for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        for (const std::atomic<int>& visit : visits) ASSERT_EQ(visit, 1);
        EXPECT_LE(num_ranges, num_threads);
        EXPECT_FALSE(too_small) << count << " indices, grain " << grain;
      }
}

TEST(ParallelFor, HandlesMoreThanTwoToThe32Indices) {
  Context ctx;
  ctx.num_threads = 3;
  const int64_t count = int64_t{1} << 61;
  std::atomic<int64_t> covered = 0;
  parallel_for(ctx, count, 1, [&](int64_t begin, int64_t end) { covered += end - begin; });
  EXPECT_EQ(covered, count);
}

TEST(ParallelForDynamic, CoversEachIndexOnce) {
  for (const int num_threads : {1, 2, 8}) {
    Context ctx;
    ctx.num_threads = num_threads;
    std::vector<std::atomic<int>> visits(333);
    parallel_for_dynamic(ctx, 333, [&](int64_t i) { ++visits[static_cast<size_t>(i)]; });
    for (const std::atomic<int>& visit : visits) ASSERT_EQ(visit, 1);
    parallel_for_dynamic(ctx, 0, [&](int64_t) { FAIL(); });
  }
}

TEST(ParallelFor, RethrowsWhatAThreadThrew) {
  for (const int num_threads : {1, 4}) {
    Context ctx;
    ctx.num_threads = num_threads;
    auto fail = [](int64_t) { throw Error(ErrorCode::kCorrupt, {.what = "token 5"}); };
    testing::expect_error(ErrorCode::kCorrupt, {"token 5"}, [&] {
      parallel_for(ctx, 100, 1, [&](int64_t begin, int64_t) { fail(begin); });
    });
    testing::expect_error(ErrorCode::kCorrupt, {"token 5"},
                          [&] { parallel_for_dynamic(ctx, 100, fail); });
  }
}

}  // namespace
}  // namespace longship
