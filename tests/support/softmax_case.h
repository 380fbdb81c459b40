// Cases for softmax schedules: a whole batch with random tensors, its results by a schedule on all
// ranks, and the comparison with the definition of attention.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "parallel/group.h"
#include "parallel/softmax_schedule.h"

namespace longship::testing {

std::vector<int64_t> cu_seqlens_of(const std::vector<int64_t>& lengths);

// Batches of one document, of random documents with some of one token, of one document over at
// least four of four or more ranks, and of fewer tokens than ranks.
std::vector<std::vector<int64_t>> packed_batches();

// Every mask and the sink logit, each alone and joined with others; windows are a few times `unit`,
// sink tokens fewer and more than the window.
std::vector<AttentionOptions> all_masks(double scale, const Variable& sink_logit_H,
                                        int64_t unit = 1);
// For traces of failures.
std::string mask_text(const AttentionOptions& options);

struct AttentionHeads {
  int64_t query, kv;
  int64_t key_size = 6, value_size = 10;
};

// A whole batch on the host, the same on every rank.
struct AttentionBatch {
  std::vector<int64_t> cu_seqlens;
  Tensor q_THD, k_TKD, v_TKV, do_THV;
  AttentionOptions options;

  // In another dtype; a sink logit keeps its own.
  AttentionBatch to(DType dtype) const;
};

// Standard normals.
AttentionBatch random_batch(Context& ctx, const std::vector<int64_t>& cu_seqlens,
                            AttentionHeads heads, DType dtype,
                            const AttentionOptions& options = {.scale = 0.4});

// Whole-batch results on the host, the same on every rank.
struct AttentionResults {
  Tensor o_THV, dq_THD, dk_TKD, dv_TKV;
  Tensor dsink_H;  // summed over the ranks; undefined without a sink logit

  std::vector<std::pair<const char*, Tensor>> gradients() const {
    return {{"dq", dq_THD}, {"dk", dk_TKD}, {"dv", dv_TKV}};
  }
};

SequencePlan plan_of(const AttentionBatch& batch, Layout layout, const Group& sp);

// Forward and backward, where `ctx` runs; results are gathered on the host. Collective.
AttentionResults run(Context& ctx, const AttentionBatch& batch, const SoftmaxSchedule& schedule,
                     const SequencePlan& plan, const Group& sp);

// On this rank alone.
AttentionResults run_on_one_rank(Context& ctx, const AttentionBatch& batch,
                                 const SoftmaxSchedule& schedule);

// By the definition of attention, in fp64.
AttentionResults definition_of(const Context& ctx, const AttentionBatch& batch);

// Fails the test unless relative_rms() of o and of each gradient are within these bounds.
void expect_near(const AttentionResults& found, const AttentionResults& expected,
                 double forward_bound, double gradient_bound);

// Fails the test unless o is in the dtype of q and the results are near those of definition_of().
void expect_equal_to_definition(const Context& ctx, const AttentionBatch& batch,
                                const AttentionResults& found, double forward_bound,
                                double gradient_bound);

bool same_bits(const AttentionResults& a, const AttentionResults& b);

// Changes q, k and v of single tokens of a batch of packed documents, and fails the test unless
// exactly those outputs change that the causal rule and the window of `options` let the token
// reach; collective.
void expect_reach_of_tokens(Context& ctx, const SoftmaxSchedule& schedule, Layout layout,
                            const Group& sp, const AttentionOptions& options = {.scale = 0.4});

// Peak bytes of a forward and a backward in fp32, beside what was live before; collective.
struct PeakBytes {
  int64_t forward = 0, backward = 0;
};
PeakBytes peaks_of(const SoftmaxSchedule& schedule, const SequencePlan& plan, AttentionHeads heads,
                   const AttentionOptions& options = {.scale = 0.4});

// An upper bound of what tensors of so many elements of 4 bytes take when they are allocated.
int64_t bytes_with_rounding(int64_t elements);

}  // namespace longship::testing
