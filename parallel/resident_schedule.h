// What schedules have in common in which every rank keeps q, k, v and o of its own tokens, whatever
// travels meanwhile: local, ring, token_ring, gather_kv. A schedule is then its two passes.
#pragma once

#include <memory>

#include "parallel/attention_shape.h"
#include "parallel/softmax_schedule.h"

namespace longship {

// One call of attend() as both passes see it.
struct ResidentAttention {
  SoftmaxBlockInput input;  // the rank's own q, k, v, all heads
  AttentionShape shape;
  SequencePlan plan;
  MaskRule rule;
  Tensor sink_logit_H;  // undefined = none
};

// Of the rank's own tokens, in the accumulator dtype.
struct ResidentGradients {
  Tensor dq_THD;
  Tensor dk_TKD;
  Tensor dv_TKV;
};

// The communication and arithmetic of one strategy, shared by its schedule and the nodes on tapes.
class ResidentPasses {
 public:
  ResidentPasses(const char* name, Group sp, const SoftmaxBlock& kernel)
      : name_(name), sp_(std::move(sp)), kernel_(kernel) {}
  virtual ~ResidentPasses() = default;

  const char* name() const { return name_; }
  const Group& sp() const { return sp_; }
  const SoftmaxBlock& kernel() const { return kernel_; }

  // o of the own tokens with the lse of whole rows, before the sink logit takes its part. o is in
  // the accumulator dtype, or in that of q if there is no sink logit.
  virtual SoftmaxBlockOutput forward(Context& ctx, const ResidentAttention& call) const = 0;
  // `output` as saved: o in the dtype of q, both with the sink logit. So are the p and ds that a
  // block makes of them: its gradients need nothing more.
  virtual ResidentGradients backward(Context& ctx, const ResidentAttention& call,
                                     const SoftmaxBlockOutput& output,
                                     const Tensor& do_THV) const = 0;

 private:
  const char* name_;
  Group sp_;
  const SoftmaxBlock& kernel_;
};

// attend() as one tape node that saves q, k, v, o (in q's dtype), lse and the sink logit.
std::unique_ptr<SoftmaxSchedule> make_resident_schedule(
    std::shared_ptr<const ResidentPasses> passes);

}  // namespace longship
