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

// lse is natural-log, in the accumulator dtype (fp32; fp64 for fp64 inputs); a row that sees no key
// has lse = -inf and o = 0.
struct SoftmaxBlockOutput {
  Tensor o_THV;
  Tensor lse_TH;
};

// What the backward of a block is told of the whole (merged) rows of o.
enum class RowTerm {
  kDelta,   // delta_TH = rowsum(do * o), in the accumulator dtype
  kOutput,  // o_THV in q's dtype, from which the kernel makes delta itself
};

struct SoftmaxBlockBackward {
  Tensor do_THV;      // in q's dtype
  Tensor lse_TH;      // of the whole (merged) row, accumulator dtype
  Tensor delta_or_o;  // as SoftmaxBlock::row_term() says
  // Sums in the accumulator dtype, to which the kernel adds; or room in it or in output_dtype(),
  // every element of which the kernel writes. Deterministic: fixed order, no atomics.
  Tensor dq_THD;
  Tensor dk_SKD;
  Tensor dv_SKV;
  bool write_dq = false;
  bool write_dkv = false;
};

class SoftmaxBlock {
 public:
  virtual ~SoftmaxBlock() = default;

  // The dtype, for inputs of `dtype`, in which o and gradients come without a pass of their own:
  // that of the sums, or `dtype` where a kernel rounds to it anyway.
  virtual DType output_dtype(DType dtype) const { return accumulator_dtype(dtype); }
  virtual RowTerm row_term() const { return RowTerm::kDelta; }

  // o in `o_dtype`: the accumulator dtype, for what others are merged into, or output_dtype().
  virtual SoftmaxBlockOutput forward(Context& ctx, const SoftmaxBlockInput& input,
                                     const BlockMask& mask, DType o_dtype) const = 0;
  SoftmaxBlockOutput forward(Context& ctx, const SoftmaxBlockInput& input,
                             const BlockMask& mask) const {
    return forward(ctx, input, mask, output_dtype(input.q_THD.dtype()));
  }
  virtual void backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                        const SoftmaxBlockBackward& gradients) const = 0;
};

// `delta_or_o` for this kernel, of the merged output in q's dtype.
Tensor row_term_of(const Context& ctx, const SoftmaxBlock& kernel, const Tensor& o_THV,
                   const Tensor& do_THV);

// kv_head for H query heads over K key/value heads: h -> h * K / H. Needs H % K == 0.
std::vector<int64_t> grouped_kv_heads(int64_t num_heads, int64_t num_kv_heads);

}  // namespace longship
