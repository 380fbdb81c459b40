// The contract between sequence-parallel schedules and softmax-attention kernels: attention of any
// block of queries over any block of keys, with the log-sum-exp that lets partial results merge.
//
// Shapes: T query rows, S key rows, H query heads, K key/value heads, D head size, V value size.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/document_mask.h"
#include "runtime/context.h"

namespace longship {

struct SoftmaxBlockInput {
  Tensor q_THD;  // fp32, bf16 or fp64; contiguous
  Tensor k_SKD;
  Tensor v_SKV;
  // Key/value head of each query head; ascending, size H. GQA with whole groups is h / (H / K).
  std::vector<int64_t> kv_head;
  double scale = 1.0;  // softmax(scale * q k^T); usually 1/sqrt(D)
};

// Results in the accumulator dtype (fp32; fp64 for fp64 inputs). lse is natural-log; a row that
// sees no key has lse = -inf and o = 0.
struct SoftmaxBlockOutput {
  Tensor o_THV;
  Tensor lse_TH;
};

struct SoftmaxBlockBackward {
  Tensor do_THV;    // in q's dtype
  Tensor lse_TH;    // of the whole (merged) row, accumulator dtype
  Tensor delta_TH;  // rowsum(do * o) of the whole row, accumulator dtype
  // Accumulator dtype; the kernel adds to them. Deterministic: fixed order, no atomics.
  Tensor dq_THD;
  Tensor dk_SKD;
  Tensor dv_SKV;
};

class SoftmaxBlock {
 public:
  virtual ~SoftmaxBlock() = default;
  virtual SoftmaxBlockOutput forward(Context& ctx, const SoftmaxBlockInput& input,
                                     const BlockMask& mask) const = 0;
  virtual void backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                        const SoftmaxBlockBackward& gradients) const = 0;
};

// kv_head for H query heads over K key/value heads: h -> h * K / H. Needs H % K == 0.
std::vector<int64_t> grouped_kv_heads(int64_t num_heads, int64_t num_kv_heads);

}  // namespace longship
