// The geometry of tiled attention: one side of the score matrix lies along vector lanes, the other
// is walked row by row. The forward and dq put queries on lanes and walk keys; dk and dv put keys
// on lanes and walk queries. Lanes are cut into tiles (the unit of parallel work) of a few panels;
// rows come in blocks that a tile's panels share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel/softmax_block.h"

namespace longship {

// A mask piece seen from the lanes' side.
struct LaneRectangle {
  int64_t lane_begin = 0, lane_length = 0, lane_position = 0;
  int64_t row_begin = 0, row_length = 0, row_position = 0;
  // A lane sees a row iff low <= row position - lane position <= high.
  int64_t low = 0, high = 0;
};

// Consecutive lanes of one document, and the rectangles that cover them.
struct LaneTile {
  int64_t begin = 0, length = 0, position = 0;
  size_t first_rectangle = 0, num_rectangles = 0;
};

// Some rows of a block, as one panel of a tile sees them.
struct PanelRows {
  int64_t panel = 0;
  int64_t first = 0, count = 0;  // rows of the block
  // Lanes [hidden_before(r), hidden_from(r)) see row r, 0 <= r < count; all of them do when
  // all_visible.
  bool all_visible = false;
  int64_t before = 0, from = 0;
  int64_t hidden_before(int64_t r) const { return before + r; }
  int64_t hidden_from(int64_t r) const { return from + r; }
};

class LaneTiles {
 public:
  // Pieces must lie within num_queries x num_keys and be as BlockMask says; a violation throws
  // Error(kInternal).
  static LaneTiles of_queries(const BlockMask& mask, int64_t tile_lanes, int64_t num_queries,
                              int64_t num_keys);
  static LaneTiles of_keys(const BlockMask& mask, int64_t tile_lanes, int64_t num_queries,
                           int64_t num_keys);

  // In ascending order of their first lane.
  const std::vector<LaneTile>& tiles() const { return tiles_; }

  // Walks the rows that some lane of the tile sees, in the order of the mask and in blocks of up to
  // `block_rows`: on_block(first row of the tensor, number of rows), then on_panel(PanelRows) for
  // each panel of `panel_lanes` lanes that sees some of them.
  template <class OnBlock, class OnPanel>
  void walk(const LaneTile& tile, int64_t panel_lanes, int64_t block_rows, OnBlock&& on_block,
            OnPanel&& on_panel) const;

 private:
  LaneTiles(std::vector<LaneRectangle> rectangles, int64_t tile_lanes, int64_t num_lanes,
            int64_t num_rows);

  std::vector<LaneRectangle> rectangles_;
  std::vector<LaneTile> tiles_;
};

template <class OnBlock, class OnPanel>
void LaneTiles::walk(const LaneTile& tile, int64_t panel_lanes, int64_t block_rows,
                     OnBlock&& on_block, OnPanel&& on_panel) const {
  for (size_t i = 0; i < tile.num_rectangles; ++i) {
    const LaneRectangle& rectangle = rectangles_[tile.first_rectangle + i];
    const int64_t low = rectangle.low, high = rectangle.high;
    const int64_t rectangle_end = rectangle.row_position + rectangle.row_length;
    const int64_t tile_begin = std::max(rectangle.row_position, tile.position + low);
    const int64_t tile_end = std::min(rectangle_end, tile.position + tile.length + high);
    for (int64_t begin = tile_begin; begin < tile_end; begin += block_rows) {
      const int64_t end = std::min(begin + block_rows, tile_end);
      on_block(rectangle.row_begin + begin - rectangle.row_position, end - begin);
      for (int64_t lane = 0; lane < tile.length; lane += panel_lanes) {
        const int64_t first_lane = tile.position + lane;
        const int64_t last_lane = first_lane + std::min(panel_lanes, tile.length - lane) - 1;
        const int64_t first_row = std::max(begin, first_lane + low);
        const int64_t end_row = std::min(end, last_lane + high + 1);
        if (first_row >= end_row) continue;
        on_panel(PanelRows{
            .panel = lane / panel_lanes,
            .first = first_row - begin,
            .count = end_row - first_row,
            .all_visible = last_lane + low <= first_row && end_row <= first_lane + high + 1,
            .before = first_row - high - first_lane,
            .from = first_row - low + 1 - first_lane});
      }
    }
  }
}

}  // namespace longship
