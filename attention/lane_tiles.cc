#include "attention/lane_tiles.h"

#include <algorithm>
#include <tuple>

namespace longship {
namespace {

bool within(int64_t begin, int64_t length, int64_t extent) {
  return begin >= 0 && length > 0 && begin <= extent - length;
}

}  // namespace

LaneTiles LaneTiles::of_queries(const BlockMask& mask, int64_t tile_lanes, int64_t num_queries,
                                int64_t num_keys) {
  std::vector<LaneRectangle> rectangles;
  rectangles.reserve(mask.pieces.size());
  for (const MaskPiece& piece : mask.pieces)
    rectangles.push_back({piece.q_begin, piece.q_length, piece.q_position, piece.k_begin,
                          piece.k_length, piece.k_position, piece.lowest(), piece.highest()});
  return LaneTiles(std::move(rectangles), tile_lanes, num_queries, num_keys);
}

LaneTiles LaneTiles::of_keys(const BlockMask& mask, int64_t tile_lanes, int64_t num_queries,
                             int64_t num_keys) {
  std::vector<LaneRectangle> rectangles;
  rectangles.reserve(mask.pieces.size());
  for (const MaskPiece& piece : mask.pieces)
    rectangles.push_back({piece.k_begin, piece.k_length, piece.k_position, piece.q_begin,
                          piece.q_length, piece.q_position, -piece.highest(), -piece.lowest()});
  return LaneTiles(std::move(rectangles), tile_lanes, num_keys, num_queries);
}

LaneTiles::LaneTiles(std::vector<LaneRectangle> rectangles, int64_t tile_lanes, int64_t num_lanes,
                     int64_t num_rows)
    : rectangles_(std::move(rectangles)) {
  for (const LaneRectangle& r : rectangles_)
    LONGSHIP_CHECK(within(r.lane_begin, r.lane_length, num_lanes) &&
                       within(r.row_begin, r.row_length, num_rows) && r.row_position >= 0 &&
                       r.lane_position >= 0,
                   "mask piece of {} x {} rows at ({}, {}) of a block of {} x {}", r.lane_length,
                   r.row_length, r.lane_begin, r.row_begin, num_lanes, num_rows);
  // Stable, as the anchor has the position of another document's first token.
  std::stable_sort(
      rectangles_.begin(), rectangles_.end(), [](const LaneRectangle& a, const LaneRectangle& b) {
        return std::tie(a.lane_begin, a.row_position) < std::tie(b.lane_begin, b.row_position);
      });
  int64_t covered = 0;  // lanes before this one belong to earlier rectangles
  for (size_t first = 0; first < rectangles_.size();) {
    const LaneRectangle& head = rectangles_[first];
    LONGSHIP_CHECK(head.lane_begin >= covered, "mask pieces overlap at row {}", head.lane_begin);
    covered = head.lane_begin + head.lane_length;
    size_t end = first;
    for (; end < rectangles_.size() && rectangles_[end].lane_begin == head.lane_begin; ++end) {
      const LaneRectangle& r = rectangles_[end];
      LONGSHIP_CHECK(r.lane_length == head.lane_length && r.lane_position == head.lane_position,
                     "mask pieces that start at row {} differ", r.lane_begin);
    }
    for (int64_t lane = 0; lane < head.lane_length; lane += tile_lanes)
      tiles_.push_back({.begin = head.lane_begin + lane,
                        .length = std::min(tile_lanes, head.lane_length - lane),
                        .position = head.lane_position + lane,
                        .first_rectangle = first,
                        .num_rectangles = end - first});
    first = end;
  }
}

}  // namespace longship
