#include "parallel/visible_rows.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "runtime/random.h"

namespace longship {
namespace {

RowRange with_row(RowRange rows, int64_t row) {
  return cover(rows, {row, 1});
}

constexpr MaskRule kRules[] = {{},
                               {.window = 1},
                               {.window = 2},
                               {.window = 5},
                               {.window = 16},
                               {.causal = false},
                               {.causal = false, .window = 4},
                               {.window = 3, .num_sink_tokens = 2},
                               {.window = 2, .num_sink_tokens = 5, .anchor = true},
                               {.causal = false, .window = 2, .num_sink_tokens = 1},
                               {.anchor = true}};

struct Expected {
  VisibleRows rows;
  std::vector<RowRange> keys;  // one by one
};

// From the definition: token by token.
Expected expected(const SequencePlan& plan, int query_rank, int key_rank, const MaskRule& rule) {
  Expected seen;
  for (const Segment& q : plan.segments(query_rank))
    for (const Segment& k : plan.segments(key_rank))
      for (int64_t i = 0; i < q.length; ++i)
        for (int64_t j = 0; j < k.length; ++j) {
          const int64_t key = k.position + j, distance = q.position + i - key;
          const bool is_anchor = rule.anchor && k.global_begin + j == 0;
          const bool is_near = rule.window == 0 || std::abs(distance) < rule.window;
          const bool in_document = q.document == k.document && (!rule.causal || distance >= 0) &&
                                   (is_near || key < rule.num_sink_tokens);
          if (!in_document && !is_anchor) continue;
          seen.rows.queries = with_row(seen.rows.queries, q.slot + i);
          seen.rows.keys = with_row(seen.rows.keys, k.slot + j);
          seen.keys.push_back({k.slot + j, 1});
        }
  return seen;
}

TEST(VisibleRows, CoverWhatTheMaskShowsOfEveryPairOfRanks) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<int64_t> cu_seqlens = {0};
    for (uint64_t d = 0; d < 1 + seed % 7; ++d)
      cu_seqlens.push_back(cu_seqlens.back() + static_cast<int64_t>(uniform_index(seed, 3, d, 30)));
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (int num_ranks : {1, 2, 3, 8})
        for (const MaskRule& rule : kRules) {
          const SequencePlan plan = SequencePlan::make(cu_seqlens, layout, num_ranks, 0);
          const Visibility visibility(plan, rule);
          for (int q = 0; q < num_ranks; ++q)
            for (int k = 0; k < num_ranks; ++k) {
              const auto [rows, keys] = expected(plan, q, k, rule);
              SCOPED_TRACE(
                  fmt::format("cu_seqlens {} {} over {} ranks, causal {}, window "
                              "{}, {} sink tokens, anchor {}: {} sees {}",
                              fmt::join(cu_seqlens, ","), layout_name(layout), num_ranks,
                              rule.causal, rule.window, rule.num_sink_tokens, rule.anchor, q, k));
              EXPECT_EQ(visibility.between(q, k).queries, rows.queries);
              EXPECT_EQ(visibility.between(q, k).keys, rows.keys);
              EXPECT_EQ(visibility.keys(q, k), joined(keys));
              EXPECT_EQ(visibility.between(q, k).empty(), rows.queries.count == 0);
            }
        }
  }
}

TEST(Visibility, IsMadeOnceForAPlanAndItsCopies) {
  const auto plan = SequencePlan::make({0, 9, 30}, Layout::kContiguous, 2, 0);
  const auto visibility = visibility_of(plan, {.window = 3});
  const SequencePlan copy = plan;
  EXPECT_EQ(visibility_of(copy, {.window = 3}), visibility);
  EXPECT_NE(visibility_of(copy, {}), visibility);
  EXPECT_EQ(visibility->between(1, 0).keys, Visibility(plan, {.window = 3}).between(1, 0).keys);
}

TEST(VisibleRows, SegmentsInARangeKeepTheirPlaceInTheBatch) {
  const std::vector<Segment> segments = {
      {.document = 0, .position = 7, .global_begin = 7, .length = 4, .slot = 0},
      {.document = 1, .position = 0, .global_begin = 11, .length = 5, .slot = 4},
      {.document = 1, .position = 9, .global_begin = 20, .length = 2, .slot = 9}};
  EXPECT_EQ(segments_in(segments, {0, 11}), segments);
  EXPECT_EQ(segments_in(segments, {2, 5}),
            (std::vector<Segment>{
                {.document = 0, .position = 9, .global_begin = 9, .length = 2, .slot = 0},
                {.document = 1, .position = 0, .global_begin = 11, .length = 3, .slot = 2}}));
  EXPECT_TRUE(segments_in(segments, {4, 0}).empty());
}

}  // namespace
}  // namespace longship
