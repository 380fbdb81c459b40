#include "parallel/softmax_block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "runtime/random.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

// Random numbers in order of use.
class Dice {
 public:
  explicit Dice(uint64_t seed) : seed_(seed) {}
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(uniform_index(seed_, 5, count_++, static_cast<uint64_t>(bound)));
  }

 private:
  uint64_t seed_, count_ = 0;
};

// Random documents cut into random runs; some runs are left out, the others get rows in random
// order with gaps between them.
std::vector<Segment> random_segments(Dice& dice, int64_t& num_rows) {
  std::vector<Segment> segments;
  for (int64_t document = 0; document < 5; ++document) {
    const int64_t length = 1 + dice.below(13);
    for (int64_t position = 0; position < length;) {
      const int64_t run = std::min(1 + dice.below(6), length - position);
      if (dice.below(4) > 0)
        segments.push_back({.document = document, .position = position, .length = run});
      position += run;
    }
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

struct Token {
  int64_t document = -1, position = 0;
};

std::vector<Token> tokens_of(const std::vector<Segment>& segments, int64_t num_rows) {
  std::vector<Token> tokens(static_cast<size_t>(num_rows));
  for (const Segment& segment : segments)
    for (int64_t i = 0; i < segment.length; ++i)
      tokens[static_cast<size_t>(segment.slot + i)] = {segment.document, segment.position + i};
  return tokens;
}

bool sees(const MaskPiece& piece, int64_t window, int64_t i, int64_t j) {
  const int64_t distance = piece.q_position + i - (piece.k_position + j);
  return distance >= 0 && (window == 0 || distance < window);
}

TEST(CausalDocumentMask, EqualsTheRuleForEveryPairOfTokens) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Dice dice(seed);
    int64_t num_queries = 0, num_keys = 0;
    const std::vector<Segment> queries = random_segments(dice, num_queries);
    const std::vector<Segment> keys = random_segments(dice, num_keys);
    const int64_t window = dice.below(3) == 0 ? 0 : 1 + dice.below(14);
    const BlockMask mask = causal_document_mask(queries, keys, window);
    EXPECT_EQ(mask.window, window);

    std::map<std::pair<int64_t, int64_t>, int> seen;
    for (const MaskPiece& piece : mask.pieces)
      for (int64_t i = 0; i < piece.q_length; ++i)
        for (int64_t j = 0; j < piece.k_length; ++j)
          if (sees(piece, window, i, j)) ++seen[{piece.q_begin + i, piece.k_begin + j}];

    const std::vector<Token> query = tokens_of(queries, num_queries);
    const std::vector<Token> key = tokens_of(keys, num_keys);
    for (int64_t t = 0; t < num_queries; ++t)
      for (int64_t s = 0; s < num_keys; ++s) {
        const Token &a = query[static_cast<size_t>(t)], &b = key[static_cast<size_t>(s)];
        const int64_t distance = a.position - b.position;
        const bool expected = a.document >= 0 && a.document == b.document && distance >= 0 &&
                              (window == 0 || distance < window);
        const auto found = seen.find({t, s});
        EXPECT_EQ(found == seen.end() ? 0 : found->second, expected ? 1 : 0)
            << "seed " << seed << " query " << t << " key " << s;
      }
  }
}

TEST(CausalDocumentMask, HasNoPieceInWhichNothingIsSeen) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Dice dice(seed);
    int64_t rows = 0;
    const std::vector<Segment> queries = random_segments(dice, rows);
    const std::vector<Segment> keys = random_segments(dice, rows);
    const int64_t window = dice.below(14);
    for (const MaskPiece& piece : causal_document_mask(queries, keys, window).pieces) {
      bool any = false;
      for (int64_t i = 0; i < piece.q_length; ++i)
        for (int64_t j = 0; j < piece.k_length; ++j) any |= sees(piece, window, i, j);
      EXPECT_TRUE(any) << "seed " << seed << " piece at " << piece.q_begin << "," << piece.k_begin;
    }
  }
}

TEST(CausalDocumentMask, IsSortedByQueryRowAndKeyPosition) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Dice dice(seed);
    int64_t rows = 0;
    const std::vector<Segment> queries = random_segments(dice, rows);
    const std::vector<Segment> keys = random_segments(dice, rows);
    const BlockMask mask = causal_document_mask(queries, keys);
    EXPECT_TRUE(std::is_sorted(
        mask.pieces.begin(), mask.pieces.end(), [](const MaskPiece& a, const MaskPiece& b) {
          return std::tie(a.q_begin, a.k_position) < std::tie(b.q_begin, b.k_position);
        }));
  }
}

TEST(CausalDocumentMask, OfNothingIsEmpty) {
  const std::vector<Segment> some = {{.length = 4}};
  EXPECT_TRUE(causal_document_mask({}, some).empty());
  EXPECT_TRUE(causal_document_mask(some, {}).empty());
  EXPECT_FALSE(causal_document_mask(some, some).empty());
  testing::expect_error(ErrorCode::kInternal, {"window"},
                        [&] { causal_document_mask(some, some, -1); });
}

TEST(GroupedKvHeads, DealsWholeGroupsInOrder) {
  EXPECT_EQ(grouped_kv_heads(8, 2), (std::vector<int64_t>{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(grouped_kv_heads(3, 3), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(grouped_kv_heads(4, 1), (std::vector<int64_t>{0, 0, 0, 0}));
  testing::expect_error(ErrorCode::kInternal, {"8 query heads", "3 key/value heads"},
                        [] { grouped_kv_heads(8, 3); });
}

}  // namespace
}  // namespace longship
