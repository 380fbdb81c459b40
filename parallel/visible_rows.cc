#include "parallel/visible_rows.h"

#include <algorithm>

namespace longship {
namespace {

RowRange between_rows(int64_t begin, int64_t end) {
  return {begin, end - begin};
}

}  // namespace

VisibleRows visible_rows(const MaskPiece& piece) {
  const int64_t ahead = piece.q_position - piece.k_position;  // of the first key
  const int64_t lowest = piece.lowest(), highest = piece.highest();
  VisibleRows rows = {
      .queries = between_rows(std::max<int64_t>(0, -ahead - highest),
                              std::min(piece.q_length, piece.k_length - ahead - lowest)),
      .keys = between_rows(std::max<int64_t>(0, ahead + lowest),
                           std::min(piece.k_length, ahead + piece.q_length + highest))};
  rows.queries.begin += piece.q_begin;
  rows.keys.begin += piece.k_begin;
  return rows;
}

Visibility::Visibility(const SequencePlan& plan, const MaskRule& rule)
    : num_ranks_(plan.num_ranks()),
      pairs_(static_cast<size_t>(num_ranks_) * static_cast<size_t>(num_ranks_)),
      keys_(pairs_.size()) {
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
    return static_cast<int>(rank - end_row.begin());
  };
  for (const MaskPiece& piece : document_mask(segments, segments, rule).pieces) {
    VisibleRows rows = visible_rows(piece);
    const int query_rank = to_local(rows.queries), key_rank = to_local(rows.keys);
    VisibleRows& whole = pairs_[pair(query_rank, key_rank)];
    whole = {cover(whole.queries, rows.queries), cover(whole.keys, rows.keys)};
    keys_[pair(query_rank, key_rank)].push_back(rows.keys);
  }
  for (std::vector<RowRange>& ranges : keys_) ranges = joined(std::move(ranges));
}

std::shared_ptr<const Visibility> visibility_of(const SequencePlan& plan, const MaskRule& rule) {
  return plan.memo().get<Visibility>(rule, [&] { return Visibility(plan, rule); });
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
