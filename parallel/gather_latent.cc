// "gather_latent": all-gather of the compressed keys and values of latent attention (MLA,
// arXiv 2405.04434; the gathering is that of gather_kv, which says how rows are chosen). A token
// travels as C + R numbers whatever the number of heads, in place of the H (D + V) that keys and
// values have: 576 for 40960 in DeepSeek-V2.
//
// Every rank gathers the latents that its queries see and expands keys and values from them, a few
// heads at a time, for its own queries only: nothing is merged, so that o is as exact as on one
// rank. The backward gathers and expands again. A rank adds up the gradients of all heads with
// respect to each latent that it gathered, in the accumulator dtype, and sends them to the owner,
// which adds them in ascending rank order. The gradient of the expansion stays where it is: it is
// that of a weight.
//
// With n(r, p) the rows that rank r gathers of rank p (Visibility::keys), at most s_p, e bytes an
// element and g of the accumulator (4; 8), L = C + R, rank r sends
//   "gather_latent.fwd"  sum over p != r of  n(p, r) L e                  at most (P - 1) s_r L e
//   "gather_latent.bwd"  sum over p != r of  n(p, r) L e  +  n(r, p) L g
//
// Every rank expands what it gathers: N h (N + V) C multiply-adds for N rows and h heads, beside
// the 2 s N D of their scores, so that this strategy is for shards of many more than C tokens.
//
// Memory beside inputs and output, for groups of h heads and N rows in all: N L e of latents, keys
// and values of one group, N h (D + V) e, and its q and o, s h (D e + V g); in the backward also
// N h (D + V) g and N L g of gradients, what arrives, at most P s L g, and dq of all heads.
#include <algorithm>

#include "parallel/attention_shape.h"
#include "parallel/gathered_keys.h"
#include "parallel/latent_expansion.h"
#include "runtime/autograd/kept_outputs.h"

namespace longship {
namespace {

// One call as both passes see it.
struct LatentCall {
  Tensor q_THD, latent_TL, expand_OC;
  double scale = 1.0;
  LatentShape shape;
  SequencePlan plan;
};

// The communication and arithmetic of the strategy, shared by its schedule and the nodes on tapes.
class GatherLatentPasses {
 public:
  GatherLatentPasses(Group sp, const SoftmaxBlock& kernel, int64_t heads_per_group)
      : sp_(std::move(sp)), kernel_(kernel), heads_per_group_(heads_per_group) {
    LONGSHIP_CHECK(heads_per_group > 0, "groups of {} heads", heads_per_group);
  }

  const Group& sp() const { return sp_; }

  struct Gradients {
    Tensor dq_THD;      // as the kernel gives it
    Tensor dlatent_TL;  // in the accumulator dtype
  };

  // o in q's dtype, with the lse of whole rows.
  SoftmaxBlockOutput forward(Context& ctx, const LatentCall& call) const;
  // Adds to dexpand_OC unless it is undefined.
  Gradients backward(Context& ctx, const LatentCall& call, const SoftmaxBlockOutput& output,
                     const Tensor& do_THV, const Tensor& dexpand_OC) const;

 private:
  // Latents gathered on one rank, and what its queries see of them.
  struct Gathered {
    KeyTraffic traffic;
    BlockMask mask;
    Tensor latent_SL;

    Gathered(Context& ctx, std::string_view label, const Group& sp, const LatentCall& call);
  };

  // Calls f(heads, queries of these heads over the keys and values expanded for them).
  template <class F>
  void for_each_group(Context& ctx, const LatentCall& call, const Tensor& latent_SL, F&& f) const;

  Group sp_;
  const SoftmaxBlock& kernel_;
  int64_t heads_per_group_;
};

GatherLatentPasses::Gathered::Gathered(Context& ctx, std::string_view label, const Group& sp,
                                       const LatentCall& call)
    : traffic(sp, call.plan, *visibility_of(call.plan, {})),
      mask(document_mask(call.plan.local_segments(), traffic.keys().segments, {})),
      latent_SL(ctx.empty({traffic.keys().num_rows, call.shape.row_size()}, call.shape.dtype)) {
  traffic.gather(label, {call.latent_TL}, {latent_SL}).wait();
}

template <class F>
void GatherLatentPasses::for_each_group(Context& ctx, const LatentCall& call,
                                        const Tensor& latent_SL, F&& f) const {
  const LatentExpansion expansion(call.shape, call.expand_OC);
  const int64_t H = call.shape.num_heads;
  for (HeadRange heads; heads.begin < H; heads.begin += heads.count) {
    heads.count = std::min(heads_per_group_, H - heads.begin);
    KeyValue kv = expansion.expand(ctx, latent_SL, heads);
    f(heads, SoftmaxBlockInput{.q_THD = heads_of(call.q_THD, heads).contiguous(),
                               .k_SKD = std::move(kv.k_SKD),
                               .v_SKV = std::move(kv.v_SKV),
                               .kv_head = grouped_kv_heads(heads.count, heads.count),
                               .scale = call.scale});
  }
}

SoftmaxBlockOutput GatherLatentPasses::forward(Context& ctx, const LatentCall& call) const {
  const LatentShape& shape = call.shape;
  const Gathered gathered(ctx, "gather_latent.fwd", sp_, call);
  const SoftmaxBlockOutput all = {
      ctx.empty({shape.num_tokens, shape.num_heads, shape.value_size}, shape.dtype),
      ctx.empty({shape.num_tokens, shape.num_heads}, shape.accumulator)};
  for_each_group(ctx, call, gathered.latent_SL,
                 [&](HeadRange heads, const SoftmaxBlockInput& block) {
                   const SoftmaxBlockOutput part = kernel_.forward(ctx, block, gathered.mask);
                   heads_of(all.o_THV, heads).copy_from(part.o_THV);
                   heads_of(all.lse_TH, heads).copy_from(part.lse_TH);
                 });
  return all;
}

GatherLatentPasses::Gradients GatherLatentPasses::backward(Context& ctx, const LatentCall& call,
                                                           const SoftmaxBlockOutput& output,
                                                           const Tensor& do_THV,
                                                           const Tensor& dexpand_OC) const {
  constexpr std::string_view kLabel = "gather_latent.bwd";
  const DType sums = call.shape.accumulator;
  const Gathered gathered(ctx, kLabel, sp_, call);
  const LatentExpansion expansion(call.shape, call.expand_OC);
  const Tensor row_term = row_term_of(ctx, kernel_, output.o_THV, do_THV);
  const DType dtype = kernel_.output_dtype(call.shape.dtype);
  Gradients all = {ctx.empty(call.q_THD.shape(), dtype), ctx.zeros(call.latent_TL.shape(), sums)};
  Tensor dlatent_SL = ctx.zeros(gathered.latent_SL.shape(), sums);
  for_each_group(
      ctx, call, gathered.latent_SL, [&](HeadRange heads, const SoftmaxBlockInput& block) {
        const SoftmaxBlockBackward gradients{.do_THV = heads_of(do_THV, heads).contiguous(),
                                             .lse_TH = heads_of(output.lse_TH, heads).contiguous(),
                                             .delta_or_o = heads_of(row_term, heads).contiguous(),
                                             .dq_THD = ctx.empty(block.q_THD.shape(), dtype),
                                             .dk_SKD = ctx.empty(block.k_SKD.shape(), dtype),
                                             .dv_SKV = ctx.empty(block.v_SKV.shape(), dtype),
                                             .write_dq = true,
                                             .write_dkv = true};
        kernel_.backward(ctx, block, gathered.mask, gradients);
        heads_of(all.dq_THD, heads).copy_from(gradients.dq_THD);
        expansion.add_gradients(ctx, gathered.latent_SL, heads,
                                {gradients.dk_SKD, gradients.dv_SKV}, dlatent_SL, dexpand_OC);
      });
  gathered.traffic.finish_return(
      ctx, gathered.traffic.start_return(ctx, kLabel, {std::move(dlatent_SL)}), {all.dlatent_TL});
  return all;
}

struct GatherLatentNode final : Node {
  struct Saved {
    LatentCall call;
    SoftmaxBlockOutput output;
  } saved;
  std::shared_ptr<const GatherLatentPasses> passes;

  GatherLatentNode(Saved kept, std::shared_ptr<const GatherLatentPasses> of_schedule)
      : saved(std::move(kept)), passes(std::move(of_schedule)) {}

  const char* name() const override { return "gather_latent"; }

  void backward(Context& ctx) override {
    Tensor dexpand_OC;
    if (input(2)) dexpand_OC = input(2)->accumulate_into(ctx);
    GatherLatentPasses::Gradients gradients =
        passes->backward(ctx, saved.call, saved.output, grad_output(ctx).contiguous(), dexpand_OC);
    if (input(0)) input(0)->add(ctx, std::move(gradients.dq_THD));
    if (input(1)) input(1)->add(ctx, std::move(gradients.dlatent_TL));
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("q_THD", saved.call.q_THD);
    visit("latent_TL", saved.call.latent_TL);
    visit("expand_OC", saved.call.expand_OC);
    visit("o_THV", saved.output.o_THV);
    visit("lse_TH", saved.output.lse_TH);
  }
};

class GatherLatent final : public LatentSchedule {
 public:
  explicit GatherLatent(std::shared_ptr<const GatherLatentPasses> passes)
      : passes_(std::move(passes)) {}

  Variable attend(Context& ctx, const LatentAttentionInput& input,
                  const SequencePlan& plan) const override {
    check_plan_matches(plan, passes_->sp());
    LatentCall call{.q_THD = input.q_THD.value().contiguous(),
                    .latent_TL = input.latent_TL.value().contiguous(),
                    .expand_OC = input.expand_OC.value(),
                    .scale = input.scale,
                    .shape = LatentShape::of(input, plan),
                    .plan = plan};
    const std::vector<Tensor> outputs = computed_once(ctx, KeptOp::kAttention, [&] {
      SoftmaxBlockOutput whole = passes_->forward(ctx, call);
      return std::vector{std::move(whole.o_THV), std::move(whole.lse_TH)};
    });
    SoftmaxBlockOutput output{.o_THV = outputs[0], .lse_TH = outputs[1]};
    Tensor o_THV = output.o_THV;
    std::unique_ptr<GatherLatentNode> node;
    if (is_recording(ctx, {&input.q_THD, &input.latent_TL, &input.expand_OC}))
      node = std::make_unique<GatherLatentNode>(
          GatherLatentNode::Saved{std::move(call), std::move(output)}, passes_);
    return record(ctx, "gather_latent", std::move(o_THV), std::move(node),
                  {&input.q_THD, &input.latent_TL, &input.expand_OC});
  }

 private:
  std::shared_ptr<const GatherLatentPasses> passes_;
};

}  // namespace

std::unique_ptr<LatentSchedule> make_gather_latent(Group sp, const SoftmaxBlock& kernel,
                                                   int64_t heads_per_group) {
  return std::make_unique<GatherLatent>(
      std::make_shared<GatherLatentPasses>(std::move(sp), kernel, heads_per_group));
}

}  // namespace longship
