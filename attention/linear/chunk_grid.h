// The chunks that linear kernels work in: cuts at the multiples of the chunk size in a document's
// positions, so that they do not depend on which rank holds which tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/sequence_plan.h"

namespace longship {

// Neighbouring tokens of one segment within one cell of the grid; only the first and last chunk of
// a segment may be shorter than the chunk size.
struct Chunk {
  int64_t segment = 0;  // index in the span that the grid was made from
  int64_t slot = 0;     // local row of the first token
  int64_t length = 0;   // in [1, chunk size]
};

class ChunkGrid {
 public:
  ChunkGrid(std::span<const Segment> segments, int64_t chunk_size);

  int64_t chunk_size() const { return chunk_size_; }
  int64_t num_segments() const { return static_cast<int64_t>(first_.size()) - 1; }
  int64_t num_chunks() const { return first_.back(); }
  // Index in chunks() of a segment's first chunk; first_chunk(num_segments()) is num_chunks().
  int64_t first_chunk(int64_t segment) const { return first_[static_cast<size_t>(segment)]; }
  // All chunks: by segment, then by position.
  const std::vector<Chunk>& chunks() const { return chunks_; }
  const Chunk& chunk(int64_t index) const { return chunks_[static_cast<size_t>(index)]; }

 private:
  int64_t chunk_size_;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> first_;
};

}  // namespace longship
