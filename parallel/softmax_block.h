// The contract between sequence-parallel schedules and softmax-attention kernels: attention of any
// block of queries over any block of keys, with the log-sum-exp that lets partial results merge.
//
// Shapes: T query rows, S key rows, H query heads, K key/value heads, D head size, V value size.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/sequence_plan.h"
#include "runtime/context.h"

namespace longship {

// A rectangle of the score matrix between one run of queries and one run of keys of one document.
// Query row q_begin + i (document position q_position + i) may see key row k_begin + j (document
// position k_position + j) iff
//     k_position + j <= q_position + i                           (causal)
//     and q_position + i - (k_position + j) < window             (if window > 0).
struct MaskPiece {
  int64_t q_begin = 0, q_length = 0, q_position = 0;
  int64_t k_begin = 0, k_length = 0, k_position = 0;

  bool operator==(const MaskPiece&) const = default;
};

// The pieces of a block, sorted by (q_begin, k_position): a kernel that walks them in order adds
// keys in ascending position. Pieces come from pairs of segments: the query ranges of two pieces
// are the same or disjoint, and so are their key ranges; no rectangle comes twice. Query rows that
// no piece covers see nothing.
struct BlockMask {
  std::vector<MaskPiece> pieces;
  int64_t window = 0;  // keys a query sees, itself included; 0 = all

  bool empty() const { return pieces.empty(); }
};

// Pieces between query segments and key segments (slots are row numbers), leaving out pairs that
// the causal rule or the window hides entirely.
BlockMask causal_document_mask(std::span<const Segment> queries, std::span<const Segment> keys,
                               int64_t window = 0);

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
