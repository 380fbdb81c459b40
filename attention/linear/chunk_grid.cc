#include "attention/linear/chunk_grid.h"

#include <algorithm>

namespace longship {

ChunkGrid::ChunkGrid(std::span<const Segment> segments, int64_t chunk_size)
    : chunk_size_(chunk_size) {
  LONGSHIP_CHECK(chunk_size > 0, "chunk size {}", chunk_size);
  first_.push_back(0);
  for (size_t n = 0; n < segments.size(); ++n) {
    const Segment& segment = segments[n];
    for (int64_t done = 0; done < segment.length;) {
      const int64_t in_cell = (segment.position + done) % chunk_size;
      const int64_t length = std::min(chunk_size - in_cell, segment.length - done);
      chunks_.push_back({static_cast<int64_t>(n), segment.slot + done, length});
      done += length;
    }
    first_.push_back(static_cast<int64_t>(chunks_.size()));
  }
}

}  // namespace longship
