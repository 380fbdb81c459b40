// The sizes of one softmax-attention call, read from its tensors and checked once.
#pragma once

#include "parallel/group.h"
#include "parallel/sequence_plan.h"

namespace longship {

struct AttentionShape {
  int64_t num_tokens = 0;    // T, on this rank
  int64_t num_heads = 0;     // H, query heads
  int64_t num_kv_heads = 0;  // K, divides H
  int64_t head_size = 0;     // D, of queries and keys
  int64_t value_size = 0;    // V
  DType dtype = DType::kF32;
  DType accumulator = DType::kF32;  // of sums, lse and delta

  // Throws Error(kInternal) unless q [T, H, D], k [T, K, D] and v [T, K, V] fit together, are of
  // one floating dtype, H is a multiple of K, and T is what `plan` gives to this rank.
  static AttentionShape of(const Tensor& q_THD, const Tensor& k_TKD, const Tensor& v_TKV,
                           const SequencePlan& plan);
};

// Throws Error(kInternal) unless `plan` was made for this rank of `group`.
void check_plan_matches(const SequencePlan& plan, const Group& group);

}  // namespace longship
