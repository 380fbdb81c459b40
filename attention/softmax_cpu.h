// Softmax attention on the CPU, in tiles with a running maximum (FlashAttention-2, Dao 2023, arXiv
// 2307.08691): memory is linear in the number of tokens, scores live only in per-thread tiles.
#pragma once

#include "parallel/softmax_block.h"

namespace longship {

// Implements SoftmaxBlock for fp32, bf16 (computed in fp32) and fp64, for any head sizes. Work is
// shared by (head, query tile) in the forward and for dq, and by (key/value head, key tile) for dk
// and dv; every element is summed by one thread in a fixed order, so results do not depend on
// ctx.num_threads. Tensors of the wrong shape or dtype, and pieces outside of them, throw
// Error(kInternal).
class SoftmaxCpu final : public SoftmaxBlock {
 public:
  using SoftmaxBlock::forward;
  SoftmaxBlockOutput forward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                             DType o_dtype) const override;
  void backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                const SoftmaxBlockBackward& gradients) const override;
};

}  // namespace longship
