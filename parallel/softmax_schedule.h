// A sequence-parallel schedule for softmax attention: local q, k, v in, local attention output out.
#pragma once

#include <functional>
#include <memory>

#include "parallel/attention_shape.h"
#include "parallel/group.h"
#include "parallel/sequence_plan.h"
#include "parallel/softmax_block.h"
#include "runtime/autograd/tape.h"

namespace longship {

// What a layer's attention is, the same on every rank. The mask is that of MaskRule.
struct AttentionOptions {
  double scale = 1.0;           // of the scores
  int64_t window = 0;           // 0 = unlimited
  bool causal = true;           // false: both directions, within documents and window
  int64_t num_sink_tokens = 0;  // first tokens of each document that stay visible beyond the window
  bool anchor = false;          // the first token of the batch is visible to all documents
  // A learned logit per query head, [H] in any floating dtype, that takes part in the softmax as
  // the score of one more key whose value is zero (gpt-oss, OpenAI 2025, arXiv 2508.10925): see
  // runtime/ops/sink_logit.h. Undefined = none. What a rank adds to its gradient are terms of the
  // sum over ranks, as for every parameter.
  Variable sink_logit_H = {};

  MaskRule mask_rule() const { return {causal, window, num_sink_tokens, anchor}; }
};

// The tensors of a call before they are computed. Each function gives one of them and is called
// once, in the order q, k, v.
struct AttentionSources {
  AttentionShape shape;  // that they will have
  std::function<Variable(Context&)> q_THD, k_TKD, v_TKV;
};

class SoftmaxSchedule {
 public:
  virtual ~SoftmaxSchedule() = default;

  // Attention within documents, as one differentiable op. q_THD, k_TKD, v_TKV are the local
  // tokens of `plan`; H % K == 0. Returns o_THV in q's dtype.
  virtual Variable attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD,
                          const Variable& v_TKV, const SequencePlan& plan,
                          const AttentionOptions& options) const = 0;

  // The same as the tensors become ready: a schedule may send one while the next is computed. Its
  // gradients may then be on their way still when those of v and k are asked for.
  virtual Variable attend_when_ready(Context& ctx, const AttentionSources& sources,
                                     const SequencePlan& plan,
                                     const AttentionOptions& options) const;
};

// `kernel` must outlive the schedule and every tape it recorded on; the plan of each call must have
// been made for this rank of `sp`. Labels in Group statistics are the strategy's name and ".fwd" or
// ".bwd", such as "ring.fwd".
//
// All of them keep q's dtype on the wire (but for sums, see their files), add in fp32 (fp64), and
// round o to q's dtype once.
struct UlyssesOptions {
  int64_t max_head_groups = 0;  // that travel one after another; 0 = as many as pay, by sizes
};
std::unique_ptr<SoftmaxSchedule> make_ulysses(Group sp, const SoftmaxBlock& kernel,
                                              const UlyssesOptions& options = {});
std::unique_ptr<SoftmaxSchedule> make_ring(Group sp, const SoftmaxBlock& kernel);
std::unique_ptr<SoftmaxSchedule> make_token_ring(Group sp, const SoftmaxBlock& kernel);
// Gathers this many KV heads at a time; 0: one on the CPU, half of them on a GPU.
std::unique_ptr<SoftmaxSchedule> make_gather_kv(Group sp, const SoftmaxBlock& kernel,
                                                int64_t heads_per_group = 0);
// Only with a window: without one, attend() throws Error(kConfig).
std::unique_ptr<SoftmaxSchedule> make_halo(Group sp, const SoftmaxBlock& kernel);
// Only causal layers on the contiguous layout: otherwise attend() throws Error(kConfig).
std::unique_ptr<SoftmaxSchedule> make_lightseq(Group sp, const SoftmaxBlock& kernel);

struct UspOptions {
  int ulysses_degree = 0;  // divides the ranks; 0 = by choose_usp_degrees() for the heads of a call
  int64_t max_head_groups = 0;  // as in UlyssesOptions
};
// Collective over `sp`, which it splits. Throws Error(kConfig) for a degree that does not divide.
std::unique_ptr<SoftmaxSchedule> make_usp(Group sp, const SoftmaxBlock& kernel,
                                          const UspOptions& options = {});

// One rank that holds the whole plan: no communication. A plan over more ranks throws
// Error(kInternal).
std::unique_ptr<SoftmaxSchedule> make_local(const SoftmaxBlock& kernel);

}  // namespace longship
