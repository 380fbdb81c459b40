// One matrix for every chunk of a grid and every head, in one allocation.
#pragma once

#include "attention/linear/chunk_grid.h"
#include "attention/linear/panel_matrix.h"
#include "runtime/context.h"

namespace longship {

template <class A>
class ChunkMatrices {
 public:
  // Uninitialised matrices [c, num_columns], or [c, c] if num_columns is 0; c rows in the chunk.
  ChunkMatrices(const Context& ctx, const ChunkGrid& grid, int64_t num_heads,
                int64_t num_columns = 0)
      : grid_(grid), num_heads_(num_heads), num_columns_(num_columns) {
    int64_t total = 0;
    for (const Chunk& chunk : grid.chunks()) {
      offsets_.push_back(total);
      total += PanelMatrix<A>::size(chunk.length, columns(chunk)) * num_heads;
    }
    buffer_ = ctx.empty({total}, DTypeOf<A>::value);
  }

  PanelMatrix<A> at(int64_t chunk, int64_t head) const {
    const Chunk& c = grid_.chunk(chunk);
    const PanelMatrix<A> first(buffer_.template data<A>() + offsets_[static_cast<size_t>(chunk)],
                               c.length, columns(c));
    return {first.data + head * first.size(), c.length, columns(c)};
  }

 private:
  int64_t columns(const Chunk& chunk) const {
    return num_columns_ == 0 ? chunk.length : num_columns_;
  }

  const ChunkGrid& grid_;
  int64_t num_heads_, num_columns_;
  std::vector<int64_t> offsets_;
  Tensor buffer_;
};

}  // namespace longship
