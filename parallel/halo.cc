// "halo": sliding-window attention (Beltagy et al. 2020, arXiv 2004.05150) with the halo exchange
// of stencil codes: the keys that the windows of a rank's queries reach on other ranks, and only
// those, come to it straight from their owners.
//
// A query at position i of its document sees the keys at positions j with i - window < j <= i. So
// each run of tokens needs the window - 1 rows of its document before it; where shards are shorter
// than that, they come from several ranks, and each slot of the zigzag layout has a halo of its
// own. Attention in both directions has a halo on both sides; sink tokens and the anchor add a row
// or a few.
//
// A rank computes its queries over its own keys while the halo travels, and then those that reach
// the halo, no others, over the halo; the second partial output is merged into the first, each row
// once, in the dtype in which the kernel gives whole outputs. The backward fetches again, rather
// than keep the halo of every layer, while it computes half of its queries over the own keys, and
// the other half while the gradients of the halo go home, in the accumulator dtype; their owner
// adds them to its own part in ascending rank order. Rows go in one batch of point-to-point
// messages each way, and a rank waits for none but those that its windows reach or that reach into
// it.
//
// With n(r, p) the rows of rank p whose keys the queries of rank r see, e bytes an element and g of
// the accumulator (4; 8), rank r sends
//   "halo.fwd"  sum over p != r of  n(p, r) K (D + V) e
//   "halo.bwd"  sum over p != r of  n(p, r) K (D + V) e  +  n(r, p) K (D + V) g
// For one document and slots no shorter than the window, every n is window - 1 or 0: one halo per
// rank on the contiguous layout, (window - 1) K (D + V) e, and two on the zigzag layout.
//
// Memory beside inputs and output, for a halo of N rows that M queries reach: N K (D + V) e, the
// running o and its part, (s + M) H (V + 1) g at most; in the backward the halo, its gradients
// N K (D + V) g, what arrives (as much as was sent), and delta, dq, dk and dv.
#include "parallel/gathered_keys.h"
#include "parallel/resident_schedule.h"
#include "runtime/ops/merge_partials.h"

namespace longship {
namespace {

// What one rank computes, and the keys that it fetches for it.
class Halo {
 public:
  // Local queries over local or fetched keys.
  struct Block {
    RowRange queries;  // local rows; the mask counts from the first of them
    BlockMask mask;
  };

  // `sp` and `plan` must outlive the halo; a rule with a window.
  Halo(const Group& sp, const SequencePlan& plan, const MaskRule& rule);

  const KeyTraffic& traffic() const { return traffic_; }
  // Some local queries over all local keys.
  Block local_block(RowRange queries) const { return block(queries, plan_.local_segments()); }
  // In ascending order of rows; each query that reaches the halo is in one of them.
  const std::vector<Block>& blocks() const { return blocks_; }

 private:
  Block block(RowRange queries, std::span<const Segment> keys) const;

  const SequencePlan& plan_;
  MaskRule rule_;
  KeyTraffic traffic_;
  std::vector<Block> blocks_;
};

Halo::Halo(const Group& sp, const SequencePlan& plan, const MaskRule& rule)
    : plan_(plan),
      rule_(rule),
      traffic_(sp, plan, *visibility_of(plan, rule), KeyTraffic::OwnKeys::kLeftInPlace) {
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

SoftmaxBlockInput with_keys(const SoftmaxBlockInput& local, const TensorRows& keys,
                            RowRange queries) {
  SoftmaxBlockInput block = local;
  block.q_THD = rows_of(local.q_THD, queries);
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
  const SoftmaxBlockOutput merged = kernel().forward(
      ctx, local, halo.local_block({0, call.shape.num_tokens}).mask, whole_o_dtype(call));
  work.wait();
  for (const Halo::Block& block : halo.blocks()) {
    const SoftmaxBlockOutput part =
        kernel().forward(ctx, with_keys(local, fetched, block.queries), block.mask);
    const TensorRows into = slice({merged.o_THV, merged.lse_TH}, block.queries);
    merge_partials_into(ctx, into[0], into[0], into[1], part.o_THV, part.lse_TH);
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

  const Tensor row_term = row_term_of(ctx, kernel(), output.o_THV, do_THV);
  // The first half of the queries, which is not empty unless there are none, writes the gradients
  // of its rows and of all own keys; what comes later adds to them.
  const int64_t half = (call.shape.num_tokens + 1) / 2;
  const RowRange second_half = {half, call.shape.num_tokens - half};
  const Tensor dq_THD = ctx.empty(local.q_THD.shape(), sums);
  slice({dq_THD}, second_half)[0].fill_zero();
  const DType kv_sums[] = {sums, sums};
  const TensorRows home = empty_like(ctx, own, call.shape.num_tokens, kv_sums);
  auto compute = [&](const TensorRows& keys, const Halo::Block& block,
                     const TensorRows& key_gradients, bool write_dq, bool write_dkv) {
    const TensorRows rows = slice({do_THV, output.lse_TH, row_term, dq_THD}, block.queries);
    kernel().backward(ctx, with_keys(local, keys, block.queries), block.mask,
                      {.do_THV = rows[0],
                       .lse_TH = rows[1],
                       .delta_or_o = rows[2],
                       .dq_THD = rows[3],
                       .dk_SKD = key_gradients[0],
                       .dv_SKV = key_gradients[1],
                       .write_dq = write_dq,
                       .write_dkv = write_dkv});
  };
  compute(own, halo.local_block({0, half}), home, /*write_dq=*/true, /*write_dkv=*/true);
  work.wait();
  TensorRows fetched_gradients = empty_like(ctx, fetched, halo.traffic().keys().num_rows, kv_sums);
  for (const Halo::Block& block : halo.blocks())
    compute(fetched, block, fetched_gradients, /*write_dq=*/false,
            /*write_dkv=*/&block == &halo.blocks().front());
  KeyTraffic::Return back =
      halo.traffic().start_return(ctx, backward_label(), std::move(fetched_gradients));
  compute(own, halo.local_block(second_half), home, /*write_dq=*/false, /*write_dkv=*/false);
  halo.traffic().finish_return(ctx, std::move(back), home);
  return {dq_THD, home[0], home[1]};
}

}  // namespace

std::unique_ptr<SoftmaxSchedule> make_halo(Group sp, const SoftmaxBlock& kernel) {
  return make_resident_schedule(std::make_shared<HaloPasses>(std::move(sp), kernel));
}

}  // namespace longship
