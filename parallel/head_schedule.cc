#include "parallel/head_schedule.h"

#include "parallel/head_exchange.h"

namespace longship {
namespace {

// Names: T tokens of this rank, S of its group, H (K) all query (KV) heads, N the heads of this
// rank.

struct HeadNode final : Node {
  // Tokens of the group, heads of this rank.
  struct Saved {
    ResidentAttention call;
    SoftmaxBlockOutput output;
  } saved;
  AttentionShape shape;  // tokens of this rank, all heads
  HeadRoute route;
  std::shared_ptr<const ResidentPasses> passes;

  HeadNode(Saved kept, const AttentionShape& whole, HeadRoute by,
           std::shared_ptr<const ResidentPasses> computing)
      : saved(std::move(kept)), shape(whole), route(std::move(by)), passes(std::move(computing)) {}

  const char* name() const override { return passes->name(); }

  void backward(Context& ctx) override {
    const std::string_view label = passes->backward_label();
    Transfer do_transfer = route.query.to_heads(ctx, label, grad_output(ctx).contiguous());
    const Tensor do_SNV = do_transfer.arrive();
    if (input(3)) input(3)->add(ctx, sink_gradient_of(ctx, do_SNV));
    ResidentGradients gradients = gradients_of(ctx, do_SNV);

    const DType kv_dtype = route.shares_kv ? shape.accumulator : shape.dtype;
    Transfer dk = route.kv.to_tokens(ctx, label, gradients.dk_TKD.to(kv_dtype));
    Transfer dv = route.kv.to_tokens(ctx, label, gradients.dv_TKV.to(kv_dtype));
    Transfer dq = route.query.to_tokens(ctx, label, gradients.dq_THD.to(shape.dtype));
    gradients = {};
    const Tensor dk_blocks = dk.arrive(), dv_blocks = dv.arrive(), dq_blocks = dq.arrive();
    const int64_t H = shape.num_heads, K = shape.num_kv_heads;
    if (input(0)) input(0)->add(ctx, route.query.collect(ctx, dq_blocks, H, shape.head_size));
    if (input(1)) input(1)->add(ctx, route.join_kv(ctx, dk_blocks, K, shape.head_size));
    if (input(2)) input(2)->add(ctx, route.join_kv(ctx, dv_blocks, K, shape.value_size));
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("q_SND", saved.call.input.q_THD);
    visit("k_SND", saved.call.input.k_SKD);
    visit("v_SNV", saved.call.input.v_SKV);
    visit("o_SNV", saved.output.o_THV);
    visit("lse_SN", saved.output.lse_TH);
    if (saved.call.sink_logit_H.defined()) visit("sink_logit_N", saved.call.sink_logit_H);
  }

 private:
  // Of the group's tokens and the heads of this rank.
  ResidentGradients gradients_of(Context& ctx, const Tensor& do_SNV) const {
    if (route.mine.query.count > 0) return passes->backward(ctx, saved.call, saved.output, do_SNV);
    const SoftmaxBlockInput& in = saved.call.input;  // of no heads
    return {ctx.empty(in.q_THD.shape(), shape.accumulator),
            ctx.empty(in.k_SKD.shape(), shape.accumulator),
            ctx.empty(in.v_SKV.shape(), shape.accumulator)};
  }

  // Of all heads: those of other ranks are zero here.
  Tensor sink_gradient_of(const Context& ctx, const Tensor& do_SNV) const {
    const HeadRange mine = route.mine.query;
    const Tensor gradient_H = ctx.zeros({shape.num_heads}, shape.accumulator);
    if (mine.count > 0)
      gradient_H.slice(0, mine.begin, mine.count)
          .copy_from(sink_gradient(ctx, saved.call, saved.output, do_SNV));
    return gradient_H;
  }
};

// The tokens of each rank of this rank's group.
std::vector<int64_t> tokens_in_group(const SequencePlan& plan, int group_size) {
  const auto first =
      plan.tokens_per_rank().begin() + plan.rank() / group_size * int64_t{group_size};
  return {first, first + group_size};
}

// The KV head of each query head of a share, counted from its first one.
std::vector<int64_t> kv_heads_of(const HeadShare& share, const AttentionShape& shape) {
  const std::vector<int64_t> all = grouped_kv_heads(shape.num_heads, shape.num_kv_heads);
  std::vector<int64_t> mine;
  for (int64_t h = share.query.begin; h < share.query.end(); ++h)
    mine.push_back(all[static_cast<size_t>(h)] - share.kv.begin);
  return mine;
}

// The sink logits of a share; undefined = none.
Tensor sink_logit_of(const AttentionOptions& options, const HeadShare& share,
                     const AttentionShape& shape) {
  const Tensor& sink_logit_H = options.sink_logit_H.value();
  if (!sink_logit_H.defined()) return {};
  LONGSHIP_CHECK(sink_logit_H.shape() == Shape{shape.num_heads}, "sink logits {} of {} heads",
                 shape_string(sink_logit_H.shape()), shape.num_heads);
  return sink_logit_H.slice(0, share.query.begin, share.query.count);
}

}  // namespace

HeadSchedule::HeadSchedule(const char* name, Group sp) : name_(name), sp_(std::move(sp)) {}

Variable HeadSchedule::attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD,
                              const Variable& v_TKV, const SequencePlan& plan,
                              const AttentionOptions& options) const {
  check_plan_matches(plan, sp_);
  const auto shape = AttentionShape::of(q_THD.value(), k_TKD.value(), v_TKV.value(), plan);
  const HeadGrid& grid = this->grid(shape);
  const ResidentPasses& passes = *grid.passes;
  const int group_size = grid.heads.size();
  HeadRoute route = HeadRoute::of(grid.heads, tokens_in_group(plan, group_size),
                                  deal_heads(shape.num_heads, shape.num_kv_heads, group_size));
  const std::string_view label = passes.forward_label();
  Transfer k = route.kv.to_heads(ctx, label, k_TKD.value().contiguous());
  Transfer v = route.kv.to_heads(ctx, label, v_TKV.value().contiguous());
  Transfer q = route.query.to_heads(ctx, label, q_THD.value().contiguous());

  ResidentAttention call{.input = {.q_THD = q.arrive(),
                                   .k_SKD = k.arrive(),
                                   .v_SKV = v.arrive(),
                                   .kv_head = kv_heads_of(route.mine, shape),
                                   .scale = options.scale},
                         .shape = shape,
                         .plan = plan.coarsened(group_size),
                         .rule = options.mask_rule(),
                         .sink_logit_H = sink_logit_of(options, route.mine, shape)};
  const int64_t num_rows = call.plan.num_local_tokens(), num_heads = route.mine.query.count;
  call.shape.num_tokens = num_rows;
  call.shape.num_heads = num_heads;
  call.shape.num_kv_heads = route.mine.kv.count;

  SoftmaxBlockOutput output;
  if (num_heads > 0)
    output = attend_with_sink(ctx, passes, call);
  else
    output = {.o_THV = ctx.empty({num_rows, 0, shape.value_size}, shape.dtype),
              .lse_TH = ctx.empty({num_rows, 0}, shape.accumulator)};
  const Tensor blocks = route.query.to_tokens(ctx, label, output.o_THV).arrive();
  Tensor o_THV = route.query.collect(ctx, blocks, shape.num_heads, shape.value_size);

  std::unique_ptr<HeadNode> node;
  if (is_recording(ctx, {&q_THD, &k_TKD, &v_TKV, &options.sink_logit_H}))
    node = std::make_unique<HeadNode>(HeadNode::Saved{std::move(call), std::move(output)}, shape,
                                      std::move(route), grid.passes);
  return record(ctx, name_, std::move(o_THV), std::move(node),
                {&q_THD, &k_TKD, &v_TKV, &options.sink_logit_H});
}

}  // namespace longship
