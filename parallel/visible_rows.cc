#include "parallel/visible_rows.h"

#include <algorithm>

#include "parallel/softmax_block.h"

namespace longship {
namespace {

RowRange between_rows(int64_t begin, int64_t end) {
  return {begin, end - begin};
}

// The rows of a rectangle whose queries see a key of it, and whose keys a query of it sees.
VisibleRows visible_of(const MaskPiece& piece, int64_t window) {
  const int64_t ahead = piece.q_position - piece.k_position;  // of the first key
  VisibleRows rows;
  const int64_t q_end =
      window > 0 ? std::min(piece.q_length, piece.k_length - 1 + window - ahead) : piece.q_length;
  rows.queries = between_rows(std::max<int64_t>(0, -ahead), q_end);
  const int64_t k_begin = window > 0 ? std::max<int64_t>(0, ahead - window + 1) : 0;
  rows.keys = between_rows(k_begin, std::min(piece.k_length, ahead + piece.q_length));
  rows.queries.begin += piece.q_begin;
  rows.keys.begin += piece.k_begin;
  return rows;
}

}  // namespace

RowRange cover(RowRange a, RowRange b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  return between_rows(std::min(a.begin, b.begin), std::max(a.end(), b.end()));
}

Visibility::Visibility(const SequencePlan& plan, int64_t window)
    : num_ranks_(plan.num_ranks()),
      pairs_(static_cast<size_t>(num_ranks_) * static_cast<size_t>(num_ranks_)) {
  // All ranks' rows one after the other.
  std::vector<Segment> segments;
  std::vector<int64_t> end_row;
  int64_t first_row = 0;
  for (int rank = 0; rank < num_ranks_; ++rank) {
    for (Segment segment : plan.segments(rank)) {
      segment.slot += first_row;
      segments.push_back(segment);
    }
    first_row += plan.num_tokens(rank);
    end_row.push_back(first_row);
  }
  auto to_local = [&](RowRange& rows) {
    const auto rank = std::upper_bound(end_row.begin(), end_row.end(), rows.begin);
    if (rank != end_row.begin()) rows.begin -= *(rank - 1);
    return rank - end_row.begin();
  };
  for (const MaskPiece& piece : causal_document_mask(segments, segments, window).pieces) {
    VisibleRows rows = visible_of(piece, window);
    const auto query_rank = to_local(rows.queries), key_rank = to_local(rows.keys);
    VisibleRows& pair = pairs_[static_cast<size_t>(query_rank * num_ranks_ + key_rank)];
    pair = {cover(pair.queries, rows.queries), cover(pair.keys, rows.keys)};
  }
}

std::vector<Segment> segments_in(std::span<const Segment> segments, RowRange rows) {
  std::vector<Segment> parts;
  for (Segment part : segments) {
    const int64_t begin = std::max(part.slot, rows.begin);
    const int64_t end = std::min(part.slot + part.length, rows.end());
    if (begin >= end) continue;
    part.position += begin - part.slot;
    part.global_begin += begin - part.slot;
    part.length = end - begin;
    part.slot = begin - rows.begin;
    parts.push_back(part);
  }
  return parts;
}

}  // namespace longship
