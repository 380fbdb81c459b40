// One call of a linear-attention kernel: its inputs, checked, with their sizes and chunks.
#pragma once

#include "attention/linear/chunk_grid.h"
#include "attention/linear/linear_kernel.h"

namespace longship {

// What a token does to the decayed state: adds k v^T, or corrects what is stored under k by beta.
enum class WriteRule { kAdd, kDelta };

struct LinearProblem {
  static constexpr int64_t kChunkSize = 64;

  // Throws Error(kInternal) unless tensors are contiguous, fit together as LinearInput says, beta
  // is there for the delta rule alone, the segments hold every local token once, and `cut` ascends
  // through their indices.
  LinearProblem(const LinearInput& input, std::span<const Segment> segments,
                std::span<const int64_t> cut, WriteRule rule);

  LinearInput input;
  std::vector<Segment> segments;
  std::vector<int64_t> cut;  // the segments with a row among states
  ChunkGrid grid;
  int64_t num_tokens, num_key_heads, num_heads, key_size, value_size;  // T, G, H, K, V
  DType sums;                                                          // of states and gradients

  int64_t num_segments() const { return grid.num_segments(); }
  int64_t num_cut() const { return static_cast<int64_t>(cut.size()); }
  // The segment's row among states, -1 if it has none.
  int64_t state_row(int64_t segment) const { return state_row_[static_cast<size_t>(segment)]; }
  int64_t key_head(int64_t head) const { return head / (num_heads / num_key_heads); }
  // [N, H, K, V]
  Shape states_shape() const { return {num_cut(), num_heads, key_size, value_size}; }
  // Throws Error(kInternal) unless `tensor` is contiguous, of this shape and dtype.
  static void check_tensor(const char* name, const Tensor& tensor, const Shape& shape, DType dtype);

 private:
  std::vector<int64_t> state_row_;  // by segment
};

}  // namespace longship
