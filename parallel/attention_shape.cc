#include "parallel/attention_shape.h"

namespace longship {

AttentionShape AttentionShape::of(const Tensor& q_THD, const Tensor& k_TKD, const Tensor& v_TKV,
                                  const SequencePlan& plan) {
  LONGSHIP_CHECK(q_THD.rank() == 3 && k_TKD.rank() == 3 && v_TKV.rank() == 3,
                 "attention of q {}, k {}, v {}", shape_string(q_THD.shape()),
                 shape_string(k_TKD.shape()), shape_string(v_TKV.shape()));
  const AttentionShape shape = {.num_tokens = q_THD.dim(0),
                                .num_heads = q_THD.dim(1),
                                .num_kv_heads = k_TKD.dim(1),
                                .head_size = q_THD.dim(2),
                                .value_size = v_TKV.dim(2),
                                .dtype = q_THD.dtype(),
                                .accumulator = accumulator_dtype(q_THD.dtype())};
  const int64_t tokens = plan.num_local_tokens();
  LONGSHIP_CHECK(shape.num_kv_heads > 0 && shape.num_heads % shape.num_kv_heads == 0,
                 "{} query heads over {} key/value heads", shape.num_heads, shape.num_kv_heads);
  LONGSHIP_CHECK(shape.num_tokens == tokens &&
                     k_TKD.shape() == (Shape{tokens, shape.num_kv_heads, shape.head_size}) &&
                     v_TKV.shape() == (Shape{tokens, shape.num_kv_heads, shape.value_size}),
                 "attention of q {}, k {}, v {} on a rank with {} tokens",
                 shape_string(q_THD.shape()), shape_string(k_TKD.shape()),
                 shape_string(v_TKV.shape()), tokens);
  LONGSHIP_CHECK(
      is_floating(shape.dtype) && k_TKD.dtype() == shape.dtype && v_TKV.dtype() == shape.dtype,
      "attention of {} queries, {} keys and {} values", dtype_name(shape.dtype),
      dtype_name(k_TKD.dtype()), dtype_name(v_TKV.dtype()));
  return shape;
}

void check_plan_matches(const SequencePlan& plan, const Group& group) {
  LONGSHIP_CHECK(plan.num_ranks() == group.size() && plan.rank() == group.rank(),
                 "a plan for rank {} of {} on rank {} of {}", plan.rank(), plan.num_ranks(),
                 group.rank(), group.size());
}

}  // namespace longship
