// Plans of attention calls against the masks that they are of, pair by pair.
#include "attention/call_plan.h"

#include <gtest/gtest.h>

#include <set>

#include "parallel/visible_rows.h"
#include "tests/support/dice.h"
#include "tests/support/plain_calls.h"
#include "tests/support/whole_batch.h"

namespace longship {
namespace {

using testing::Dice;

using Pairs = std::set<std::pair<int64_t, int64_t>>;

Pairs pairs_of(const BlockMask& mask) {
  Pairs pairs;
  for (const MaskPiece& piece : mask.pieces)
    for (int64_t i = 0; i < piece.q_length; ++i)
      for (int64_t j = 0; j < piece.k_length; ++j) {
        const int64_t ahead = piece.k_position + j - (piece.q_position + i);
        if ((!piece.causal || ahead <= 0) &&
            (piece.window == 0 || (ahead < piece.window && -ahead < piece.window)))
          pairs.insert({piece.q_begin + i, piece.k_begin + j});
      }
  return pairs;
}

// Fails the test if a pair is computed twice, or if rows of a round meet.
Pairs pairs_of(const CallPlan& plan, bool distinct_keys) {
  Pairs pairs;
  for (const CallRound& round : plan.rounds) {
    std::set<int64_t> queries, keys;
    std::vector<RowRange> query_rows, key_rows;
    std::set<CallMask> masks;
    for (const AttentionCall& call : round.calls) {
      EXPECT_TRUE(masks.insert(call.mask).second) << "two calls of one mask in a round";
      for (const CallEntry& rows : call.entries) {
        query_rows.push_back({rows.q_begin, rows.q_length});
        key_rows.push_back({rows.k_begin, rows.k_length});
        for (int64_t i = 0; i < rows.q_length; ++i)
          EXPECT_TRUE(queries.insert(rows.q_begin + i).second) << "a round shares queries";
        for (int64_t j = 0; j < rows.k_length && distinct_keys; ++j)
          EXPECT_TRUE(keys.insert(rows.k_begin + j).second) << "a round shares keys";
        for (int64_t i = 0; i < rows.q_length; ++i)
          for (int64_t j = 0; j < rows.k_length; ++j)
            if (testing::call_sees(call.mask, rows, i, j)) {
              EXPECT_TRUE(pairs.insert({rows.q_begin + i, rows.k_begin + j}).second) << "twice";
            }
      }
    }
    EXPECT_EQ(round.queries, joined(query_rows));
    EXPECT_EQ(round.keys, joined(key_rows));
  }
  return pairs;
}

MaskRule random_rule(Dice& dice) {
  MaskRule rule{.causal = !dice.one_in(3)};
  if (dice.one_in(2)) rule.window = 1 + dice.below(12);
  if (rule.window > 0 && dice.one_in(3)) rule.num_sink_tokens = 1 + dice.below(4);
  rule.anchor = dice.one_in(4);
  return rule;
}

SequencePlan random_plan(Dice& dice) {
  std::vector<int64_t> cu_seqlens = {0};
  const int64_t num_documents = 1 + dice.below(6);
  for (int64_t d = 0; d < num_documents; ++d)
    cu_seqlens.push_back(cu_seqlens.back() + (dice.one_in(3) ? 1 : dice.below(40)));
  const auto layout = dice.one_in(2) ? Layout::kZigzag : Layout::kContiguous;
  const int num_ranks = 1 + static_cast<int>(dice.below(4));
  return SequencePlan::make(cu_seqlens, layout, num_ranks, static_cast<int>(dice.below(num_ranks)));
}

// The queries of a rank, or a part of them, over the keys of a rank or of all.
BlockMask random_mask(Dice& dice) {
  const SequencePlan plan = random_plan(dice);
  const int key_rank = static_cast<int>(dice.below(plan.num_ranks()));
  std::vector<Segment> keys(plan.segments(key_rank).begin(), plan.segments(key_rank).end());
  if (dice.one_in(3)) keys = testing::gathered_segments(plan);
  std::vector<Segment> queries(plan.local_segments().begin(), plan.local_segments().end());
  if (dice.one_in(3)) {
    const int64_t begin = dice.below(plan.num_local_tokens() + 1);
    queries = segments_in(queries, {begin, dice.below(plan.num_local_tokens() - begin + 1)});
  }
  return document_mask(queries, keys, random_rule(dice));
}

TEST(CallPlan, ComputesEachVisiblePairOnceAndNoOther) {
  for (uint64_t seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Dice dice(seed);
    const BlockMask mask = random_mask(dice);
    const Pairs expected = pairs_of(mask);
    for (const bool backward : {false, true}) {
      const CallPlan plan = CallPlan::make(
          mask, {.backward = backward, .longest_causal = dice.one_of({7, 1000}), .tile_rows = 4});
      ASSERT_EQ(pairs_of(plan, backward), expected);
    }
    if (HasFailure()) return;
  }
}

// Windows make no other masks than these, whatever the lengths: each is a kernel to be built.
TEST(CallPlan, FewMasksServeAllLengths) {
  for (const bool causal : {true, false})
    for (const int64_t window : {1, 5}) {
      const std::set<CallMask> few = {CallMask::full(),
                                      CallMask::causal(),
                                      {.left = window, .right = causal ? 0 : window - 1},
                                      {.left = 1, .right = {}}};
      for (uint64_t seed = 0; seed < 200; ++seed) {
        Dice dice(seed);
        const SequencePlan plan = random_plan(dice);
        for (int rank = 0; rank < plan.num_ranks(); ++rank)
          for (const DiagonalShape shape : {DiagonalShape::kAny, DiagonalShape::kSquare})
            for (const MaskRectangle& rectangle :
                 mask_rectangles(document_mask(plan.local_segments(), plan.segments(rank),
                                               {.causal = causal, .window = window}),
                                 shape)) {
              EXPECT_TRUE(few.contains(rectangle.mask)) << "seed " << seed << ", window " << window;
              EXPECT_TRUE(shape == DiagonalShape::kAny || rectangle.mask == CallMask::full() ||
                          rectangle.rows.q_length == rectangle.rows.k_length);
            }
      }
    }
}

CallPlan plan_of(const SequencePlan& plan, int key_rank, CallPlanOptions options = {}) {
  return CallPlan::make(document_mask(plan.local_segments(), plan.segments(key_rank), {}), options);
}

std::vector<AttentionCall> only_round(const CallPlan& plan) {
  EXPECT_EQ(plan.rounds.size(), 1u);
  return plan.rounds.empty() ? std::vector<AttentionCall>{} : plan.rounds[0].calls;
}

// Chunks of 10: rank 1 of 3 holds 1 and 4, rank 0 holds 0 and 5, rank 2 holds 2 and 3.
TEST(CallPlan, ZigzagIsOneEntryWhereKeysTouch) {
  const auto plan = SequencePlan::make({0, 60}, Layout::kZigzag, 3, 1);
  const auto own = only_round(plan_of(plan, 1));
  ASSERT_EQ(own.size(), 1u);
  EXPECT_EQ(own[0].mask, CallMask::causal());
  EXPECT_EQ(own[0].entries, (std::vector<CallEntry>{{0, 20, 0, 20}}));
  const auto earlier = only_round(plan_of(plan, 0));
  ASSERT_EQ(earlier.size(), 1u);
  EXPECT_EQ(earlier[0].mask, CallMask::full());
  EXPECT_EQ(earlier[0].entries, (std::vector<CallEntry>{{0, 20, 0, 10}}));
  const auto later = only_round(plan_of(plan, 2));
  ASSERT_EQ(later.size(), 1u);
  EXPECT_EQ(later[0].mask, CallMask::full());
  EXPECT_EQ(later[0].entries, (std::vector<CallEntry>{{10, 10, 0, 20}}));
}

TEST(CallPlan, ThousandsOfDocumentsAreOneCall) {
  std::vector<int64_t> cu_seqlens = {0};
  for (int64_t d = 0; d < 5000; ++d) cu_seqlens.push_back(cu_seqlens.back() + 1 + d % 3);
  const auto calls = only_round(plan_of(SequencePlan::local(cu_seqlens), 0));
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0].mask, CallMask::causal());
  EXPECT_EQ(calls[0].entries.size(), 5000u);
}

TEST(CallPlan, TheAnchorIsOneEntryForAllDocuments) {
  const auto plan = SequencePlan::local({0, 9, 10, 40, 55});
  const CallPlan calls = CallPlan::make(
      document_mask(plan.local_segments(), plan.local_segments(), {.anchor = true}), {});
  int64_t num_anchors = 0;
  for (const CallRound& round : calls.rounds)
    for (const AttentionCall& call : round.calls)
      for (const CallEntry& rows : call.entries)
        if (rows == CallEntry{0, 55, 0, 1}) ++num_anchors;
  EXPECT_EQ(num_anchors, 1);
  EXPECT_EQ(calls.rounds.size(), 2u);
}

TEST(CallPlan, VeryLongCausalRunsAreTiles) {
  const auto plan = SequencePlan::local({0, 1000});
  const CallPlanOptions options{.longest_causal = 999, .tile_rows = 400};
  const CallPlan tiles = plan_of(plan, 0, options);
  ASSERT_EQ(tiles.rounds.size(), 2u);
  EXPECT_EQ(tiles.rounds[0].calls[0].entries,
            (std::vector<CallEntry>{{0, 400, 0, 400}, {400, 400, 400, 400}, {800, 200, 800, 200}}));
  EXPECT_EQ(tiles.rounds[1].calls[0].mask, CallMask::full());
  EXPECT_EQ(tiles.rounds[1].calls[0].entries,
            (std::vector<CallEntry>{{400, 400, 0, 400}, {800, 200, 0, 800}}));
  // Keys that two tiles share are computed in two rounds of the backward.
  CallPlanOptions backward = options;
  backward.backward = true;
  EXPECT_EQ(plan_of(plan, 0, backward).rounds.size(), 3u);
  EXPECT_EQ(plan_of(plan, 0, {.longest_causal = 1000}).rounds.size(), 1u);
}

TEST(CallPlan, TilesComeAtTheLengthWhereTheyPayForTheHeadSize) {
  const auto num_rounds = [](int64_t length, bool backward, int64_t head_size) {
    return plan_of(SequencePlan::local({0, length}), 0,
                   CallPlanOptions::fastest(backward, head_size))
        .rounds.size();
  };
  EXPECT_EQ(num_rounds(131072, /*backward=*/false, 128), 2u);
  EXPECT_EQ(num_rounds(131072, /*backward=*/false, 64), 1u);
  EXPECT_EQ(num_rounds(131072, /*backward=*/true, 128), 1u);
  EXPECT_EQ(num_rounds(131072, /*backward=*/true, 64), 4u);
  for (int64_t head_size : {64, 128}) {
    EXPECT_EQ(num_rounds(65536, false, head_size), 1u);
    EXPECT_EQ(num_rounds(65536, true, head_size), 1u);
    EXPECT_EQ(num_rounds(262144, false, head_size), 2u);
    EXPECT_EQ(num_rounds(262144, true, head_size), 8u);
  }
}

TEST(CallPlan, IsMadeOnceForAMask) {
  const auto plan = SequencePlan::local({0, 40, 60});
  const BlockMask mask = document_mask(plan.local_segments(), plan.local_segments(), {});
  const auto forward = CallPlan::of(mask, {});
  EXPECT_EQ(CallPlan::of(mask, {}), forward);
  EXPECT_EQ(forward->rounds.size(), CallPlan::make(mask, {}).rounds.size());
  const auto tiles = CallPlan::of(mask, {.longest_causal = 30, .tile_rows = 10});
  EXPECT_EQ(tiles->rounds.size(), 2u);
  EXPECT_NE(CallPlan::of(mask, {.backward = true}), forward);
}

TEST(CallPlan, NothingVisibleIsNoRound) {
  EXPECT_TRUE(CallPlan::make({}, {}).rounds.empty());
  const auto plan = SequencePlan::make({0, 60}, Layout::kContiguous, 2, 0);
  EXPECT_TRUE(plan_of(plan, 1).rounds.empty());
}

}  // namespace
}  // namespace longship
