// What schedules have in common in which every rank keeps q, k, v and o of its own tokens, whatever
// travels meanwhile: local, ring, token_ring, gather_kv, halo, lightseq. A schedule is then its two
// passes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "parallel/attention_shape.h"
#include "parallel/softmax_schedule.h"

namespace longship {

// One call of attend() as both passes see it.
struct ResidentAttention {
  SoftmaxBlockInput input;  // q, k, v of the rank's own tokens
  AttentionShape shape;     // of this input
  SequencePlan plan;
  MaskRule rule;
  Tensor sink_logit_H;  // undefined = none
};

// Of the rank's own tokens, each in the accumulator dtype or as the kernel rounded it.
struct ResidentGradients {
  Tensor dq_THD;
  Tensor dk_TKD;
  Tensor dv_TKV;
};

// The communication and arithmetic of one strategy, shared by its schedule and the nodes on tapes.
class ResidentPasses {
 public:
  ResidentPasses(const char* name, Group sp, const SoftmaxBlock& kernel)
      : name_(name),
        forward_label_(name_ + std::string(".fwd")),
        backward_label_(name_ + std::string(".bwd")),
        sp_(std::move(sp)),
        kernel_(kernel) {}
  virtual ~ResidentPasses() = default;

  const char* name() const { return name_; }
  // Of Group's statistics.
  std::string_view forward_label() const { return forward_label_; }
  std::string_view backward_label() const { return backward_label_; }
  const Group& sp() const { return sp_; }
  const SoftmaxBlock& kernel() const { return kernel_; }
  // In which the kernel gives o and gradients of `call` when nothing is to be merged or added.
  DType output_dtype(const ResidentAttention& call) const {
    return kernel_.output_dtype(call.shape.dtype);
  }
  // In which it gives an o that is whole, but for the sink logit.
  DType whole_o_dtype(const ResidentAttention& call) const {
    return call.sink_logit_H.defined() ? call.shape.accumulator : output_dtype(call);
  }

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
  std::string forward_label_, backward_label_;
  Group sp_;
  const SoftmaxBlock& kernel_;
};

// The output as it is saved, of the forward pass and the sink logit of `call`, if it has one. A
// block that runs again in the backward has it from its first run: nothing is computed or sent.
SoftmaxBlockOutput attend_with_sink(Context& ctx, const ResidentPasses& passes,
                                    const ResidentAttention& call);
// That output before the inputs of the call are there: nothing if it has to be computed.
std::optional<SoftmaxBlockOutput> kept_output(const Context& ctx);
// What the queries of `call` add to the gradient of its sink logit.
Tensor sink_gradient(const Context& ctx, const ResidentAttention& call,
                     const SoftmaxBlockOutput& output, const Tensor& do_THV);

// Shows what a node saves of a call, for Node::visit_saved().
void visit_attention(const Node::SavedVisitor& visit, ResidentAttention& call,
                     SoftmaxBlockOutput& output);

// attend() as one tape node that saves q, k, v, o (in q's dtype), lse and the sink logit.
std::unique_ptr<SoftmaxSchedule> make_resident_schedule(
    std::shared_ptr<const ResidentPasses> passes);

}  // namespace longship
