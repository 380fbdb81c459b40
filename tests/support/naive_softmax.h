// Softmax attention straight from its definition, in fp64 and O(tokens^2) memory: the oracle of the
// kernels and of the sequence-parallel schedules. It shares no code with them.
#pragma once

#include "parallel/softmax_schedule.h"

namespace longship::testing {

// A kernel that computes every block in fp64 and rounds its results once.
class NaiveSoftmax final : public SoftmaxBlock {
 public:
  using SoftmaxBlock::forward;
  SoftmaxBlockOutput forward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                             DType o_dtype) const override;
  void backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                const SoftmaxBlockBackward& gradients) const override;
};

// Results for a whole batch, all fp64.
struct NaiveAttention {
  Tensor o_THV, lse_TH;
  Tensor dq_THD, dk_TKD, dv_TKV;
  Tensor dsink_H;  // undefined without a sink logit
};

// Attention within the documents of `cu_seqlens` and its gradients for do_THV. Inputs in any
// floating dtype; query head h uses key/value head h * K / H.
NaiveAttention naive_attention(const Context& ctx, const Tensor& q_THD, const Tensor& k_TKD,
                               const Tensor& v_TKV, const Tensor& do_THV,
                               const std::vector<int64_t>& cu_seqlens,
                               const AttentionOptions& options);

}  // namespace longship::testing
