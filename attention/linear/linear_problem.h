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
  // is there for the delta rule alone, and the segments hold every local token once.
  LinearProblem(const LinearInput& input, std::span<const Segment> segments, WriteRule rule);

  LinearInput input;
  std::vector<Segment> segments;
  ChunkGrid grid;
  int64_t num_tokens, num_key_heads, num_heads, key_size, value_size;  // T, G, H, K, V
  DType sums;                                                          // of states and gradients

  int64_t num_segments() const { return grid.num_segments(); }
  int64_t key_head(int64_t head) const { return head / (num_heads / num_key_heads); }
  // [N, H, K, V]
  Shape states_shape() const { return {num_segments(), num_heads, key_size, value_size}; }
  // Throws Error(kInternal) unless `tensor` is contiguous, of this shape and dtype.
  static void check_tensor(const char* name, const Tensor& tensor, const Shape& shape, DType dtype);
};

}  // namespace longship
