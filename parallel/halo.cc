#include "parallel/halo.h"

#include "parallel/resident_schedule.h"
#include "runtime/ops/merge_partials.h"
#include "runtime/ops/softmax_delta.h"

namespace longship {
namespace {

SoftmaxBlockInput with_keys(const SoftmaxBlockInput& local, const TensorRows& keys,
                            RowRange queries) {
  SoftmaxBlockInput block = local;
  block.q_THD = local.q_THD.slice(0, queries.begin, queries.count);
  block.k_SKD = keys[0];
  block.v_SKV = keys[1];
  return block;
}

class HaloPasses final : public ResidentPasses {
 public:
  HaloPasses(Group sp, const SoftmaxBlock& kernel)
      : ResidentPasses("halo", std::move(sp), kernel) {}

  SoftmaxBlockOutput forward(Context& ctx, const ResidentAttention& call) const override;
  ResidentGradients backward(Context& ctx, const ResidentAttention& call,
                             const SoftmaxBlockOutput& output, const Tensor& do_THV) const override;
};

SoftmaxBlockOutput HaloPasses::forward(Context& ctx, const ResidentAttention& call) const {
  if (call.rule.window == 0)
    throw Error(ErrorCode::kConfig,
                {.what = "strategy `halo`",
                 .expected = "a layer with a sliding window",
                 .found = "window 0, for which the halo would be the whole document",
                 .next = "choose gather_kv, which fetches keys in the same way, or ring"});
  const SoftmaxBlockInput& local = call.input;
  const Halo halo(sp(), call.plan, call.rule);
  const TensorRows own = {local.k_SKD, local.v_SKV};
  const TensorRows fetched = empty_like(ctx, own, halo.traffic().keys().num_rows);
  Work work = halo.traffic().gather(forward_label(), own, fetched);
  const SoftmaxBlockOutput merged =
      kernel().forward(ctx, local, halo.local_block({0, call.shape.num_tokens}).mask);
  work.wait();
  for (const Halo::Block& block : halo.blocks()) {
    const SoftmaxBlockOutput part =
        kernel().forward(ctx, with_keys(local, fetched, block.queries), block.mask);
    const TensorRows into = slice({merged.o_THV, merged.lse_TH}, block.queries);
    merge_partials(ctx, into[0], into[1], part.o_THV, part.lse_TH);
  }
  return merged;
}

ResidentGradients HaloPasses::backward(Context& ctx, const ResidentAttention& call,
                                       const SoftmaxBlockOutput& output,
                                       const Tensor& do_THV) const {
  const DType sums = call.shape.accumulator;
  const SoftmaxBlockInput& local = call.input;
  const Halo halo(sp(), call.plan, call.rule);
  const TensorRows own = {local.k_SKD, local.v_SKV};
  const TensorRows fetched = empty_like(ctx, own, halo.traffic().keys().num_rows);
  Work work = halo.traffic().gather(backward_label(), own, fetched);

  const Tensor delta_TH = softmax_delta(ctx, output.o_THV, do_THV);
  const Tensor dq_THD = ctx.zeros(local.q_THD.shape(), sums);
  const TensorRows home = zeros_like(ctx, own, sums);
  auto add_gradients = [&](const TensorRows& keys, const Halo::Block& block,
                           const TensorRows& key_gradients) {
    const TensorRows rows = slice({do_THV, output.lse_TH, delta_TH, dq_THD}, block.queries);
    kernel().backward(ctx, with_keys(local, keys, block.queries), block.mask,
                      {.do_THV = rows[0],
                       .lse_TH = rows[1],
                       .delta_TH = rows[2],
                       .dq_THD = rows[3],
                       .dk_SKD = key_gradients[0],
                       .dv_SKV = key_gradients[1]});
  };
  const int64_t half = call.shape.num_tokens / 2;
  add_gradients(own, halo.local_block({0, half}), home);
  work.wait();
  TensorRows fetched_gradients = zeros_like(ctx, fetched, sums);
  for (const Halo::Block& block : halo.blocks()) add_gradients(fetched, block, fetched_gradients);
  KeyTraffic::Return back =
      halo.traffic().start_return(ctx, backward_label(), std::move(fetched_gradients));
  add_gradients(own, halo.local_block({half, call.shape.num_tokens - half}), home);
  halo.traffic().finish_return(ctx, std::move(back), home);
  return {dq_THD, home[0], home[1]};
}

}  // namespace

Halo::Halo(const Group& sp, const SequencePlan& plan, const MaskRule& rule)
    : plan_(plan),
      rule_(rule),
      traffic_(sp, plan, Visibility(plan, rule), KeyTraffic::OwnKeys::kLeftInPlace) {
  std::vector<RowRange> reaching;
  for (const MaskPiece& piece :
       document_mask(plan.local_segments(), traffic_.keys().segments, rule).pieces)
    reaching.push_back(visible_rows(piece).queries);
  for (RowRange queries : joined(std::move(reaching)))
    blocks_.push_back(block(queries, traffic_.keys().segments));
}

Halo::Block Halo::block(RowRange queries, std::span<const Segment> keys) const {
  return {queries, document_mask(segments_in(plan_.local_segments(), queries), keys, rule_)};
}

std::unique_ptr<SoftmaxSchedule> make_halo(Group sp, const SoftmaxBlock& kernel) {
  return make_resident_schedule(std::make_shared<HaloPasses>(std::move(sp), kernel));
}

}  // namespace longship
