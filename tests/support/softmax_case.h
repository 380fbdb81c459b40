// Cases for softmax schedules: a whole batch with random tensors, its results by a schedule on all
// ranks, and the comparison with the definition of attention.
#pragma once

#include <utility>
#include <vector>

#include "parallel/group.h"
#include "parallel/softmax_schedule.h"

namespace longship::testing {

std::vector<int64_t> cu_seqlens_of(const std::vector<int64_t>& lengths);

struct AttentionHeads {
  int64_t query, kv;
};

// A whole batch, the same on every rank.
struct AttentionBatch {
  std::vector<int64_t> cu_seqlens;
  Tensor q_THD, k_TKD, v_TKV, do_THV;
  AttentionOptions options;
};

// Standard normals. Keys (6) and values (10) differ in size.
AttentionBatch random_batch(Context& ctx, const std::vector<int64_t>& cu_seqlens,
                            AttentionHeads heads, DType dtype,
                            const AttentionOptions& options = {.scale = 0.4});

// Whole-batch results, the same on every rank.
struct AttentionResults {
  Tensor o_THV, dq_THD, dk_TKD, dv_TKV;
  Tensor dsink_H;  // summed over the ranks; undefined without a sink logit

  std::vector<std::pair<const char*, Tensor>> gradients() const {
    return {{"dq", dq_THD}, {"dk", dk_TKD}, {"dv", dv_TKV}};
  }
};

SequencePlan plan_of(const AttentionBatch& batch, Layout layout, const Group& sp);

// The whole batch of tensors of local tokens; collective.
Tensor gather(const Context& ctx, const Group& sp, const SequencePlan& plan, const Tensor& local);

// Forward and backward; collective.
AttentionResults run(Context& ctx, const AttentionBatch& batch, const SoftmaxSchedule& schedule,
                     const SequencePlan& plan, const Group& sp);

// Fails the test unless the results are those of the definition in fp64, up to these bounds on
// relative_rms() of o and of each gradient.
void expect_equal_to_definition(const Context& ctx, const AttentionBatch& batch,
                                const AttentionResults& found, double forward_bound,
                                double gradient_bound);

bool same_bits(const Tensor& a, const Tensor& b);
bool same_bits(const AttentionResults& a, const AttentionResults& b);

}  // namespace longship::testing
