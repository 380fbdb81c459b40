#include "parallel/resident_schedule.h"

#include "runtime/autograd/kept_outputs.h"
#include "runtime/ops/sink_logit.h"
#include "runtime/ops/softmax_delta.h"

namespace longship {
namespace {

struct ResidentNode final : Node {
  struct Saved {
    ResidentAttention call;
    SoftmaxBlockOutput output;
  } saved;
  std::shared_ptr<const ResidentPasses> passes;

  ResidentNode(Saved kept, std::shared_ptr<const ResidentPasses> of_schedule)
      : saved(std::move(kept)), passes(std::move(of_schedule)) {}

  const char* name() const override { return passes->name(); }

  void backward(Context& ctx) override {
    const Tensor do_THV = grad_output(ctx).contiguous();
    ResidentGradients gradients = passes->backward(ctx, saved.call, saved.output, do_THV);
    if (input(0)) input(0)->add(ctx, std::move(gradients.dq_THD));
    if (input(1)) input(1)->add(ctx, std::move(gradients.dk_TKD));
    if (input(2)) input(2)->add(ctx, std::move(gradients.dv_TKV));
    if (input(3)) input(3)->add(ctx, sink_gradient(ctx, saved.call, saved.output, do_THV));
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit_attention(visit, saved.call, saved.output);
  }
};

class ResidentSchedule final : public SoftmaxSchedule {
 public:
  explicit ResidentSchedule(std::shared_ptr<const ResidentPasses> passes)
      : passes_(std::move(passes)) {}

  Variable attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD, const Variable& v_TKV,
                  const SequencePlan& plan, const AttentionOptions& options) const override {
    check_plan_matches(plan, passes_->sp());
    const auto shape = AttentionShape::of(q_THD.value(), k_TKD.value(), v_TKV.value(), plan);
    ResidentAttention call{
        .input = {.q_THD = q_THD.value().contiguous(),
                  .k_SKD = k_TKD.value().contiguous(),
                  .v_SKV = v_TKV.value().contiguous(),
                  .kv_head = grouped_kv_heads(shape.num_heads, shape.num_kv_heads),
                  .scale = options.scale},
        .shape = shape,
        .plan = plan,
        .rule = options.mask_rule(),
        .sink_logit_H = options.sink_logit_H.value()};
    SoftmaxBlockOutput output = attend_with_sink(ctx, *passes_, call);
    Tensor o_THV = output.o_THV;
    std::unique_ptr<ResidentNode> node;
    if (is_recording(ctx, {&q_THD, &k_TKD, &v_TKV, &options.sink_logit_H}))
      node = std::make_unique<ResidentNode>(ResidentNode::Saved{std::move(call), std::move(output)},
                                            passes_);
    return record(ctx, passes_->name(), std::move(o_THV), std::move(node),
                  {&q_THD, &k_TKD, &v_TKV, &options.sink_logit_H});
  }

 private:
  std::shared_ptr<const ResidentPasses> passes_;
};

}  // namespace

SoftmaxBlockOutput attend_with_sink(Context& ctx, const ResidentPasses& passes,
                                    const ResidentAttention& call) {
  const AttentionShape& shape = call.shape;
  const std::vector<Tensor> outputs = computed_once(ctx, KeptOp::kAttention, [&] {
    if (shape.num_heads == 0)
      return std::vector{ctx.empty({shape.num_tokens, 0, shape.value_size}, shape.dtype),
                         ctx.empty({shape.num_tokens, 0}, shape.accumulator)};
    SoftmaxBlockOutput output = passes.forward(ctx, call);
    if (call.sink_logit_H.defined())
      add_sink_logit(ctx, call.sink_logit_H, output.o_THV, output.lse_TH);
    // The rounded output is what the rest of the model keeps alive anyway.
    return std::vector{output.o_THV.to(shape.dtype), output.lse_TH};
  });
  return {.o_THV = outputs[0], .lse_TH = outputs[1]};
}

std::optional<SoftmaxBlockOutput> kept_output(const Context& ctx) {
  const std::vector<Tensor> outputs = computed_before(ctx, KeptOp::kAttention);
  if (outputs.empty()) return std::nullopt;
  return SoftmaxBlockOutput{.o_THV = outputs[0], .lse_TH = outputs[1]};
}

Tensor sink_gradient(const Context& ctx, const ResidentAttention& call,
                     const SoftmaxBlockOutput& output, const Tensor& do_THV) {
  return sink_logit_gradient(ctx, call.sink_logit_H, output.lse_TH,
                             softmax_delta(ctx, output.o_THV, do_THV));
}

void visit_attention(const Node::SavedVisitor& visit, ResidentAttention& call,
                     SoftmaxBlockOutput& output) {
  visit("q_THD", call.input.q_THD);
  visit("k_TKD", call.input.k_SKD);
  visit("v_TKV", call.input.v_SKV);
  visit("o_THV", output.o_THV);
  visit("lse_TH", output.lse_TH);
  if (call.sink_logit_H.defined()) visit("sink_logit_H", call.sink_logit_H);
}

std::unique_ptr<SoftmaxSchedule> make_resident_schedule(
    std::shared_ptr<const ResidentPasses> passes) {
  return std::make_unique<ResidentSchedule>(std::move(passes));
}

}  // namespace longship
