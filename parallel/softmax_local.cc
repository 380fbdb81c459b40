// "local": softmax attention of one rank that holds every token, the case without communication.
#include "parallel/attention_shape.h"
#include "parallel/softmax_schedule.h"
#include "runtime/ops/softmax_delta.h"

namespace longship {
namespace {

struct LocalAttentionNode final : Node {
  struct Saved {
    SoftmaxBlockInput input;
    SoftmaxBlockOutput output;
    BlockMask mask;
  } saved;
  const SoftmaxBlock* kernel = nullptr;

  const char* name() const override { return "local_attention"; }

  void backward(Context& ctx) override {
    const SoftmaxBlockInput& in = saved.input;
    const Tensor do_THV = grad_output(ctx).contiguous();
    const DType sums = saved.output.lse_TH.dtype();
    SoftmaxBlockBackward gradients{.do_THV = do_THV,
                                   .lse_TH = saved.output.lse_TH,
                                   .delta_TH = softmax_delta(ctx, saved.output.o_THV, do_THV),
                                   .dq_THD = ctx.zeros(in.q_THD.shape(), sums),
                                   .dk_SKD = ctx.zeros(in.k_SKD.shape(), sums),
                                   .dv_SKV = ctx.zeros(in.v_SKV.shape(), sums)};
    kernel->backward(ctx, in, saved.mask, gradients);
    if (input(0)) input(0)->add(ctx, std::move(gradients.dq_THD));
    if (input(1)) input(1)->add(ctx, std::move(gradients.dk_SKD));
    if (input(2)) input(2)->add(ctx, std::move(gradients.dv_SKV));
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("q_THD", saved.input.q_THD);
    visit("k_SKD", saved.input.k_SKD);
    visit("v_SKV", saved.input.v_SKV);
    visit("o_THV", saved.output.o_THV);
    visit("lse_TH", saved.output.lse_TH);
  }
};

class Local final : public SoftmaxSchedule {
 public:
  explicit Local(const SoftmaxBlock& kernel) : kernel_(kernel) {}

  Variable attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD, const Variable& v_TKV,
                  const SequencePlan& plan, const AttentionOptions& options) const override {
    check_plan_matches(plan, Group::self());
    const auto shape = AttentionShape::of(q_THD.value(), k_TKD.value(), v_TKV.value(), plan);
    const SoftmaxBlockInput input{.q_THD = q_THD.value().contiguous(),
                                  .k_SKD = k_TKD.value().contiguous(),
                                  .v_SKV = v_TKV.value().contiguous(),
                                  .kv_head = grouped_kv_heads(shape.num_heads, shape.num_kv_heads),
                                  .scale = options.scale};
    BlockMask mask =
        causal_document_mask(plan.local_segments(), plan.local_segments(), options.window);
    SoftmaxBlockOutput output = kernel_.forward(ctx, input, mask);
    Tensor o_THV = output.o_THV.to(q_THD.dtype());
    std::unique_ptr<LocalAttentionNode> node;
    if (is_recording(ctx, {&q_THD, &k_TKD, &v_TKV})) {
      node = std::make_unique<LocalAttentionNode>();
      // The rounded output is what the rest of the model keeps alive anyway.
      output.o_THV = o_THV;
      node->saved = {input, std::move(output), std::move(mask)};
      node->kernel = &kernel_;
    }
    return record(ctx, "local_attention", std::move(o_THV), std::move(node),
                  {&q_THD, &k_TKD, &v_TKV});
  }

 private:
  const SoftmaxBlock& kernel_;
};

}  // namespace

std::unique_ptr<SoftmaxSchedule> make_local(const SoftmaxBlock& kernel) {
  return std::make_unique<Local>(kernel);
}

}  // namespace longship
