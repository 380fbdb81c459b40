#include "parallel/ring.h"

#include <gtest/gtest.h>

#include "runtime/random.h"

namespace longship {
namespace {

// The hops that are needed, from the definition: token by token.
int expected_steps(const SequencePlan& plan, int64_t window) {
  struct Place {
    int rank;
    int64_t document, position;
  };
  std::vector<Place> tokens;
  for (int rank = 0; rank < plan.num_ranks(); ++rank)
    for (const Segment& segment : plan.segments(rank))
      for (int64_t i = 0; i < segment.length; ++i)
        tokens.push_back({rank, segment.document, segment.position + i});
  int steps = 0;
  for (const Place& query : tokens)
    for (const Place& key : tokens) {
      const int64_t distance = query.position - key.position;
      if (query.document == key.document && distance >= 0 && (window == 0 || distance < window))
        steps = std::max(steps, (query.rank - key.rank + plan.num_ranks()) % plan.num_ranks());
    }
  return steps;
}

TEST(RingSteps, StopAfterTheLastStepAtWhichAnyRankSeesAnything) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<int64_t> cu_seqlens = {0};
    for (uint64_t d = 0; d < 1 + seed % 7; ++d)
      cu_seqlens.push_back(cu_seqlens.back() + static_cast<int64_t>(uniform_index(seed, 3, d, 30)));
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (int num_ranks : {1, 2, 3, 4, 8})
        for (int64_t window : {0, 1, 2, 5, 16}) {
          const SequencePlan plan = SequencePlan::make(cu_seqlens, layout, num_ranks, 0);
          EXPECT_EQ(ring_steps(plan, {.window = window}), expected_steps(plan, window))
              << fmt::format("cu_seqlens {} {} over {} ranks, window {}",
                             fmt::join(cu_seqlens, ","), layout_name(layout), num_ranks, window);
        }
  }
}

TEST(RingSteps, OneDocumentGoesAllTheWayRound) {
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
    EXPECT_EQ(ring_steps(SequencePlan::make({0, 64}, layout, 8, 3)), 7);
}

TEST(RingSteps, ShortDocumentsAndWindowsNeedOnlyNeighbours) {
  EXPECT_EQ(ring_steps(SequencePlan::make({0, 8, 16, 24}, Layout::kContiguous, 3, 0)), 0);
  EXPECT_EQ(ring_steps(SequencePlan::make({0, 64}, Layout::kContiguous, 8, 0), {.window = 9}), 1);
  EXPECT_EQ(ring_steps(SequencePlan::make({0, 64}, Layout::kContiguous, 8, 0), {.window = 10}), 2);
}

TEST(RingSteps, TokensSeenFromAfarAndLaterKeysNeedMore) {
  const auto one_document = SequencePlan::make({0, 64}, Layout::kContiguous, 8, 0);
  EXPECT_EQ(ring_steps(one_document, {.window = 9, .num_sink_tokens = 1}), 7);
  EXPECT_EQ(ring_steps(one_document, {.window = 9, .anchor = true}), 7);
  EXPECT_EQ(ring_steps(one_document, {.causal = false, .window = 9}), 7);  // seven back is one on
  const auto two_documents = SequencePlan::make({0, 32, 64}, Layout::kContiguous, 8, 0);
  EXPECT_EQ(ring_steps(two_documents, {.window = 9, .num_sink_tokens = 1}), 3);
  EXPECT_EQ(ring_steps(two_documents, {.anchor = true}), 7);
}

}  // namespace
}  // namespace longship
