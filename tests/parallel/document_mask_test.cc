#include "parallel/document_mask.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "parallel/visible_pairs.h"
#include "tests/support/dice.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

using testing::Dice;

// Random documents cut into random runs; some runs are left out, the others get rows in random
// order with gaps between them.
std::vector<Segment> random_segments(Dice& dice, int64_t& num_rows) {
  std::vector<Segment> segments;
  int64_t first_token = 0;
  for (int64_t document = 0; document < 5; ++document) {
    const int64_t length = 1 + dice.below(13);
    for (int64_t position = 0; position < length;) {
      const int64_t run = std::min(1 + dice.below(6), length - position);
      if (dice.below(4) > 0)
        segments.push_back({.document = document,
                            .position = position,
                            .global_begin = first_token + position,
                            .length = run});
      position += run;
    }
    first_token += length;
  }
  for (size_t i = segments.size(); i > 1; --i)
    std::swap(segments[i - 1], segments[static_cast<size_t>(dice.below(static_cast<int64_t>(i)))]);
  num_rows = 0;
  for (Segment& segment : segments) {
    segment.slot = num_rows + dice.below(3);
    num_rows = segment.slot + segment.length;
  }
  return segments;
}

MaskRule random_rule(Dice& dice) {
  return {.causal = dice.below(3) > 0,
          .window = dice.below(3) == 0 ? 0 : 1 + dice.below(14),
          .num_sink_tokens = dice.below(2) == 0 ? 0 : dice.below(6),
          .anchor = dice.below(3) == 0};
}

// Segments and a rule, and the mask of both.
struct Case {
  std::vector<Segment> queries, keys;
  int64_t num_queries = 0, num_keys = 0;
  MaskRule rule;
  BlockMask mask;

  explicit Case(uint64_t seed) {
    Dice dice(seed);
    queries = random_segments(dice, num_queries);
    keys = random_segments(dice, num_keys);
    rule = random_rule(dice);
    mask = document_mask(queries, keys, rule);
  }
  std::string label() const {
    return fmt::format("causal {}, window {}, {} sink tokens, anchor {}", rule.causal, rule.window,
                       rule.num_sink_tokens, rule.anchor);
  }
};

constexpr uint64_t kNumCases = 600;

struct Token {
  int64_t document = -1, position = 0, global = 0;
};

std::vector<Token> tokens_of(const std::vector<Segment>& segments, int64_t num_rows) {
  std::vector<Token> tokens(static_cast<size_t>(num_rows));
  for (const Segment& segment : segments)
    for (int64_t i = 0; i < segment.length; ++i)
      tokens[static_cast<size_t>(segment.slot + i)] = {segment.document, segment.position + i,
                                                       segment.global_begin + i};
  return tokens;
}

// The rule of MaskRule, word for word.
bool sees(const MaskRule& rule, const Token& query, const Token& key) {
  if (query.document < 0 || key.document < 0) return false;  // a gap between segments
  if (rule.anchor && key.global == 0) return true;
  const int64_t i = query.position, j = key.position;
  return query.document == key.document && (!rule.causal || j <= i) &&
         (rule.window == 0 || std::abs(i - j) < rule.window || j < rule.num_sink_tokens);
}

// The rule of MaskPiece, for rows of the piece.
bool sees(const MaskPiece& piece, int64_t i, int64_t j) {
  const int64_t distance = piece.q_position + i - (piece.k_position + j);
  return (!piece.causal || distance >= 0) &&
         (piece.window == 0 || std::abs(distance) < piece.window);
}

template <class F>
void for_each_pair(const MaskPiece& piece, F&& f) {
  for (int64_t i = 0; i < piece.q_length; ++i)
    for (int64_t j = 0; j < piece.k_length; ++j) f(i, j);
}

TEST(DocumentMask, EqualsTheRuleForEveryPairOfTokens) {
  for (uint64_t seed = 0; seed < kNumCases; ++seed) {
    const Case c(seed);
    std::map<std::pair<int64_t, int64_t>, int> seen;
    for (const MaskPiece& piece : c.mask.pieces)
      for_each_pair(piece, [&](int64_t i, int64_t j) {
        if (sees(piece, i, j)) ++seen[{piece.q_begin + i, piece.k_begin + j}];
      });
    const std::vector<Token> query = tokens_of(c.queries, c.num_queries);
    const std::vector<Token> key = tokens_of(c.keys, c.num_keys);
    for (int64_t t = 0; t < c.num_queries; ++t)
      for (int64_t s = 0; s < c.num_keys; ++s) {
        const auto found = seen.find({t, s});
        const bool expected =
            sees(c.rule, query[static_cast<size_t>(t)], key[static_cast<size_t>(s)]);
        ASSERT_EQ(found == seen.end() ? 0 : found->second, expected ? 1 : 0)
            << "seed " << seed << " query " << t << " key " << s << ", " << c.label();
      }
  }
}

TEST(DocumentMask, CountsThePairsThatSeeEachOther) {
  int64_t largest = 0;
  for (uint64_t seed = 0; seed < kNumCases; ++seed) {
    const Case c(seed);
    int64_t count = 0;
    for (const MaskPiece& piece : c.mask.pieces)
      for_each_pair(piece, [&](int64_t i, int64_t j) { count += sees(piece, i, j); });
    EXPECT_EQ(num_visible_pairs(c.mask), count) << "seed " << seed << ", " << c.label();
    largest = std::max(largest, count);
  }
  EXPECT_GT(largest, 50);
  const int64_t long_document = int64_t{1} << 24;
  const auto plan = SequencePlan::make({0, 7, 7 + long_document}, Layout::kZigzag, 3, 1);
  EXPECT_EQ(num_visible_pairs(plan, {}), 28 + long_document * (long_document + 1) / 2);
}

TEST(DocumentMask, HasNoPieceInWhichNothingIsSeenAndNoRuleThatHidesNothing) {
  int num_full = 0;
  for (uint64_t seed = 0; seed < kNumCases; ++seed) {
    const Case c(seed);
    for (const MaskPiece& piece : c.mask.pieces) {
      MaskPiece open = piece;
      int64_t visible = 0, without_causal = 0, without_window = 0;
      for_each_pair(piece, [&](int64_t i, int64_t j) {
        visible += sees(piece, i, j);
        open.causal = false, open.window = piece.window;
        without_causal += sees(open, i, j);
        open.causal = piece.causal, open.window = 0;
        without_window += sees(open, i, j);
      });
      SCOPED_TRACE(fmt::format("seed {}, {}", seed, c.label()));
      EXPECT_GT(visible, 0);
      EXPECT_TRUE(!piece.causal || without_causal > visible);
      EXPECT_TRUE(piece.window == 0 || without_window > visible);
      EXPECT_TRUE(!piece.full() || visible == piece.q_length * piece.k_length);
      num_full += piece.full();
    }
  }
  EXPECT_GT(num_full, 0);
}

TEST(DocumentMask, LowestAndHighestAreTheRuleOfAPiece) {
  for (bool causal : {false, true})
    for (int64_t window : {0, 1, 4}) {
      const MaskPiece piece{.q_length = 9, .k_length = 9, .causal = causal, .window = window};
      for_each_pair(piece, [&](int64_t i, int64_t j) {
        EXPECT_EQ(piece.lowest() <= j - i && j - i <= piece.highest(), sees(piece, i, j));
      });
    }
}

TEST(DocumentMask, IsSortedByQueryRowAndPlaceOfTheKeyInTheBatch) {
  for (uint64_t seed = 0; seed < kNumCases; ++seed) {
    const Case c(seed);
    const std::vector<Token> key = tokens_of(c.keys, c.num_keys);
    auto place = [&](const MaskPiece& piece) {
      return std::pair(piece.q_begin, key[static_cast<size_t>(piece.k_begin)].global);
    };
    EXPECT_TRUE(std::ranges::is_sorted(c.mask.pieces, {}, place)) << "seed " << seed;
  }
}

// Ranges are the same or disjoint.
void expect_runs(std::map<int64_t, int64_t>& runs, int64_t begin, int64_t length) {
  EXPECT_EQ(runs.try_emplace(begin, length).first->second, length);
}

TEST(DocumentMask, CutsQueriesAndKeysIntoDisjointRuns) {
  for (uint64_t seed = 0; seed < kNumCases; ++seed) {
    std::map<int64_t, int64_t> query_runs, key_runs;
    for (const MaskPiece& piece : Case(seed).mask.pieces) {
      expect_runs(query_runs, piece.q_begin, piece.q_length);
      expect_runs(key_runs, piece.k_begin, piece.k_length);
    }
    for (const auto& runs : {query_runs, key_runs}) {
      int64_t end = 0;
      for (const auto& [begin, length] : runs) {
        EXPECT_GE(begin, end) << "seed " << seed;
        end = begin + length;
      }
    }
  }
}

TEST(DocumentMask, TakesEarlierRunsOfADocumentWithoutATest) {
  const std::vector<Segment> queries = {{.document = 2, .position = 10, .length = 5}};
  const std::vector<Segment> keys = {{.document = 2, .position = 0, .length = 10},
                                     {.document = 2, .position = 10, .length = 5, .slot = 10}};
  const BlockMask mask = document_mask(queries, keys, {});
  ASSERT_EQ(mask.pieces.size(), 2u);
  EXPECT_TRUE(mask.pieces[0].full());
  EXPECT_TRUE(mask.pieces[1].causal);
}

TEST(DocumentMask, OfTwoRanksIsMadeOnceForAPlanAndItsCopies) {
  const auto plan = SequencePlan::make({0, 7, 20}, Layout::kZigzag, 3, 1);
  const MaskRule rule{.window = 4};
  const auto mask = rank_mask(plan, 2, 0, rule);
  EXPECT_EQ(mask->pieces, document_mask(plan.segments(2), plan.segments(0), rule).pieces);
  const SequencePlan copy = plan;
  EXPECT_EQ(rank_mask(copy, 2, 0, rule), mask);
  EXPECT_NE(rank_mask(copy, 2, 1, rule), mask);
  EXPECT_NE(rank_mask(copy, 0, 2, rule), mask);
  EXPECT_NE(rank_mask(copy, 2, 0, {.window = 5}), mask);
}

TEST(DocumentMask, OfNothingIsEmpty) {
  const std::vector<Segment> some = {{.length = 4}};
  EXPECT_TRUE(document_mask({}, some, {}).empty());
  EXPECT_TRUE(document_mask(some, {}, {}).empty());
  EXPECT_FALSE(document_mask(some, some, {}).empty());
  testing::expect_error(ErrorCode::kInternal, {"window"},
                        [&] { document_mask(some, some, {.window = -1}); });
  testing::expect_error(ErrorCode::kInternal, {"sink tokens"},
                        [&] { document_mask(some, some, {.num_sink_tokens = -1}); });
}

}  // namespace
}  // namespace longship
