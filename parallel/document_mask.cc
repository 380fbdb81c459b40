#include "parallel/document_mask.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

namespace longship {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max() / 4;

// The first `length` tokens of a segment; `segment` keeps the others.
Segment cut_off(Segment& segment, int64_t length) {
  Segment first = segment;
  first.length = length;
  segment.position += length;
  segment.global_begin += length;
  segment.slot += length;
  segment.length -= length;
  return first;
}

// Keys in batch order, cut into runs that one piece can describe.
struct Keys {
  std::optional<Segment> anchor;  // the first token of the batch, if the rule shows it to all
  std::vector<Segment> runs;      // all others; wholly sink tokens or wholly not
};

Keys cut_keys(std::span<const Segment> keys, const MaskRule& rule) {
  Keys cut;
  for (Segment segment : keys) {
    if (rule.anchor && segment.global_begin == 0) cut.anchor = cut_off(segment, 1);
    const int64_t num_sinks = rule.num_sink_tokens - segment.position;
    if (rule.window > 0 && num_sinks > 0 && num_sinks < segment.length)
      cut.runs.push_back(cut_off(segment, num_sinks));
    if (segment.length > 0) cut.runs.push_back(segment);
  }
  std::ranges::sort(cut.runs, [](const Segment& a, const Segment& b) {
    return std::tie(a.document, a.position) < std::tie(b.document, b.position);
  });
  return cut;
}

MaskPiece piece_of(const Segment& query, const Segment& key) {
  return {.q_begin = query.slot,
          .q_length = query.length,
          .q_position = query.position,
          .k_begin = key.slot,
          .k_length = key.length,
          .k_position = key.position};
}

}  // namespace

int64_t MaskPiece::lowest() const {
  return window > 0 ? 1 - window : -kUnlimited;
}

int64_t MaskPiece::highest() const {
  if (causal) return 0;
  return window > 0 ? window - 1 : kUnlimited;
}

BlockMask document_mask(std::span<const Segment> queries, std::span<const Segment> keys,
                        const MaskRule& rule) {
  LONGSHIP_CHECK(rule.window >= 0 && rule.window < kUnlimited, "window of {} keys", rule.window);
  LONGSHIP_CHECK(rule.num_sink_tokens >= 0, "{} sink tokens", rule.num_sink_tokens);
  const Keys cut = cut_keys(keys, rule);
  std::vector<Segment> by_row(queries.begin(), queries.end());
  std::ranges::sort(by_row, {}, &Segment::slot);

  BlockMask mask;
  for (const Segment& query : by_row) {
    if (cut.anchor) {
      mask.pieces.push_back(piece_of(query, *cut.anchor));
      mask.pieces.back().causal = false;
    }
    const int64_t last_query = query.position + query.length - 1;
    auto key = std::ranges::lower_bound(cut.runs, query.document, {}, &Segment::document);
    for (; key != cut.runs.end() && key->document == query.document; ++key) {
      const int64_t last_key = key->position + key->length - 1;
      MaskPiece piece = piece_of(query, *key);
      piece.causal = rule.causal;
      piece.window = key->position < rule.num_sink_tokens ? 0 : rule.window;
      if (key->position - last_query > piece.highest()) break;
      if (last_key - query.position < piece.lowest()) continue;
      if (last_key <= query.position || piece.window == 1) piece.causal = false;
      const bool within = last_query - key->position < piece.window &&
                          (piece.causal || last_key - query.position < piece.window);
      if (within) piece.window = 0;
      mask.pieces.push_back(piece);
    }
  }
  return mask;
}

std::shared_ptr<const BlockMask> rank_mask(const SequencePlan& plan, int query_rank, int key_rank,
                                           const MaskRule& rule) {
  return plan.memo().get<BlockMask>(std::tuple(query_rank, key_rank, rule), [&] {
    return document_mask(plan.segments(query_rank), plan.segments(key_rank), rule);
  });
}

}  // namespace longship
