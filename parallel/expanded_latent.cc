// Latent attention under any schedule of softmax attention: the keys and values of the local tokens
// are expanded for all heads, as one differentiable op, and then attended to like any others.
#include "parallel/latent_expansion.h"

namespace longship {
namespace {

struct ExpandLatentNode final : Node {
  struct Saved {
    Tensor latent_TL, expand_OC;
  } saved;
  LatentShape shape;

  const char* name() const override { return "expand_latent"; }

  void backward(Context& ctx) override {
    const KeyValue gradients{grad_output(ctx, 0).contiguous(), grad_output(ctx, 1).contiguous()};
    Tensor dlatent_TL, dexpand_OC;
    if (input(0)) dlatent_TL = ctx.zeros(saved.latent_TL.shape(), shape.accumulator);
    if (input(1)) dexpand_OC = input(1)->accumulate_into(ctx);
    LatentExpansion(shape, saved.expand_OC)
        .add_gradients(ctx, saved.latent_TL, {0, shape.num_heads}, gradients, dlatent_TL,
                       dexpand_OC);
    if (input(0)) input(0)->add(ctx, std::move(dlatent_TL));
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("latent_TL", saved.latent_TL);
    visit("expand_OC", saved.expand_OC);
  }
};

class ExpandedLatent final : public LatentSchedule {
 public:
  explicit ExpandedLatent(std::shared_ptr<const SoftmaxSchedule> schedule)
      : schedule_(std::move(schedule)) {}

  Variable attend(Context& ctx, const LatentAttentionInput& input,
                  const SequencePlan& plan) const override {
    const LatentShape shape = LatentShape::of(input, plan);
    const Tensor latent_TL = input.latent_TL.value().contiguous();
    const Tensor& expand_OC = input.expand_OC.value();
    KeyValue kv = LatentExpansion(shape, expand_OC).expand(ctx, latent_TL, {0, shape.num_heads});
    std::unique_ptr<ExpandLatentNode> node;
    if (is_recording(ctx, {&input.latent_TL, &input.expand_OC})) {
      node = std::make_unique<ExpandLatentNode>();
      node->saved = {latent_TL, expand_OC};
      node->shape = shape;
    }
    const std::vector<Variable> expanded =
        record(ctx, "expand_latent", {std::move(kv.k_SKD), std::move(kv.v_SKV)}, std::move(node),
               {&input.latent_TL, &input.expand_OC});
    return schedule_->attend(ctx, input.q_THD, expanded[0], expanded[1], plan,
                             {.scale = input.scale});
  }

 private:
  std::shared_ptr<const SoftmaxSchedule> schedule_;
};

}  // namespace

std::unique_ptr<LatentSchedule> make_expanded_latent(
    std::shared_ptr<const SoftmaxSchedule> schedule) {
  return std::make_unique<ExpandedLatent>(std::move(schedule));
}

}  // namespace longship
