// "gather_kv": all-gather of keys and values by groups of KV heads (Llama 3, Dubey et al. 2024,
// arXiv 2407.21783, section 3.3.2; the softmax layers of LASP-2H, Sun et al. 2025, arXiv
// 2502.07563).
//
// Every rank gathers the keys and values that its queries see, of one group of KV heads at a time,
// and attends over them in one block: nothing is merged, so that o is as exact as on one rank, and
// on the contiguous layout without a window it has the same bits. The next group is on its way
// while the present one is used. The backward gathers again and sends each key's gradients, in the
// accumulator dtype, back to its owner, which adds them in ascending rank order while the next
// group is computed.
//
// From rank p, rank r gets exactly the keys that its queries see, n(r, p) rows. Of one document
// that is nothing for p > r on the contiguous layout, and half of the rows of p < r on the zigzag
// layout. With e bytes an element and g of the accumulator (4; 8), rank r sends
//   "gather_kv.fwd"  sum over p != r of  n(p, r) K (D + V) e
//   "gather_kv.bwd"  sum over p != r of  n(p, r) K (D + V) e  +  n(r, p) K (D + V) g
// however the heads are grouped.
//
// Memory beside inputs and output, for groups of h KV heads (c = h H / K query heads), N the sum
// over p of n(r, p) and s the local tokens: keys and values of two groups, 2 N h (D + V) e, what is
// being sent, s h (D + V) e, and q and o of one group, s c (D e + V g); in the backward also the
// gradients of two groups of keys, 2 N h (D + V) g, what arrives, at most P s h (D + V) g, and dq,
// dk and dv of all heads in the accumulator dtype (dq as the kernel gives it). Groups of one head
// bound it best and hide most; larger ones make longer messages.
#include <algorithm>

#include "parallel/gathered_keys.h"
#include "parallel/head_range.h"
#include "parallel/key_value.h"
#include "parallel/resident_schedule.h"

namespace longship {
namespace {

// The rows that travel for any group of heads, and what the local queries see of them.
struct Gathered {
  KeyTraffic traffic;
  BlockMask mask;

  Gathered(const Group& sp, const ResidentAttention& call)
      : traffic(sp, call.plan, *visibility_of(call.plan, call.rule)),
        mask(document_mask(call.plan.local_segments(), traffic.keys().segments, call.rule)) {}
};

// Walks over the groups of KV heads, always one gather ahead.
class GroupWalk {
 public:
  // `traffic` and `call` must outlive the walk.
  GroupWalk(Context& ctx, const KeyTraffic& traffic, const ResidentAttention& call,
            std::string_view label, int64_t heads_per_group)
      : ctx_(ctx),
        traffic_(traffic),
        call_(call),
        label_(label),
        heads_per_group_(heads_per_group) {
    start();
  }

  bool done() const { return begin_ == num_kv_heads(); }
  HeadRange kv_heads() const { return group_at(begin_); }
  HeadRange query_heads() const {
    const int64_t each = call_.shape.num_heads / num_kv_heads();
    return {kv_heads().begin * each, kv_heads().count * each};
  }

  // Room for the rows gathered of this group.
  KeyValue room(DType dtype) const { return room_of(kv_heads(), dtype); }

  // The queries of this group over the gathered keys, once they are there and the next group has
  // started on its way.
  SoftmaxBlockInput arrive() {
    work_.wait();
    const KeyValue present = std::move(arriving_);
    const HeadRange kv = kv_heads(), query = query_heads();
    begin_next_ = begin_ + kv.count;
    start();
    return {.q_THD = heads_of(call_.input.q_THD, query).contiguous(),
            .k_SKD = present.k_SKD,
            .v_SKV = present.v_SKV,
            .kv_head = grouped_kv_heads(query.count, kv.count),
            .scale = call_.input.scale};
  }

  void advance() { begin_ = begin_next_; }

 private:
  int64_t num_kv_heads() const { return call_.shape.num_kv_heads; }
  HeadRange group_at(int64_t begin) const {
    return {begin, std::min(heads_per_group_, num_kv_heads() - begin)};
  }

  KeyValue room_of(HeadRange kv, DType dtype) const {
    return KeyValue::empty(ctx_, call_.shape, traffic_.keys().num_rows, kv.count, dtype);
  }

  // Starts the gather of the group that begins at begin_next_, if there is one.
  void start() {
    work_ = {};
    if (begin_next_ == num_kv_heads()) return;
    const HeadRange span = group_at(begin_next_);
    const SoftmaxBlockInput& local = call_.input;
    arriving_ = room_of(span, call_.shape.dtype);
    work_ = traffic_.gather(
        label_,
        {heads_of(local.k_SKD, span).contiguous(), heads_of(local.v_SKV, span).contiguous()},
        arriving_);
  }

  Context& ctx_;
  const KeyTraffic& traffic_;
  const ResidentAttention& call_;
  std::string_view label_;
  int64_t heads_per_group_;
  int64_t begin_ = 0, begin_next_ = 0;
  KeyValue arriving_;
  Work work_;
};

class GatherKvPasses final : public ResidentPasses {
 public:
  GatherKvPasses(Group sp, const SoftmaxBlock& kernel, int64_t heads_per_group)
      : ResidentPasses("gather_kv", std::move(sp), kernel), heads_per_group_(heads_per_group) {
    LONGSHIP_CHECK(heads_per_group >= 0, "groups of {} key/value heads", heads_per_group);
  }

  SoftmaxBlockOutput forward(Context& ctx, const ResidentAttention& call) const override;
  ResidentGradients backward(Context& ctx, const ResidentAttention& call,
                             const SoftmaxBlockOutput& output, const Tensor& do_THV) const override;

 private:
  // Of this call. Two groups keep a GPU's kernels wide, and the second is hidden by the first.
  int64_t heads_per_group(const ResidentAttention& call) const {
    if (heads_per_group_ > 0) return heads_per_group_;
    const bool on_gpu = call.input.q_THD.device().kind == DeviceKind::kCuda;
    return on_gpu ? (call.shape.num_kv_heads + 1) / 2 : 1;
  }

  int64_t heads_per_group_;
};

SoftmaxBlockOutput GatherKvPasses::forward(Context& ctx, const ResidentAttention& call) const {
  const AttentionShape& shape = call.shape;
  const Gathered gathered(sp(), call);
  const DType whole = call.sink_logit_H.defined() ? shape.accumulator : shape.dtype;
  const SoftmaxBlockOutput all = {
      ctx.empty({shape.num_tokens, shape.num_heads, shape.value_size}, whole),
      ctx.empty({shape.num_tokens, shape.num_heads}, shape.accumulator)};
  for (GroupWalk walk(ctx, gathered.traffic, call, forward_label(), heads_per_group(call));
       !walk.done(); walk.advance()) {
    const SoftmaxBlockOutput part =
        kernel().forward(ctx, walk.arrive(), gathered.mask, whole_o_dtype(call));
    heads_of(all.o_THV, walk.query_heads()).copy_from(part.o_THV);
    heads_of(all.lse_TH, walk.query_heads()).copy_from(part.lse_TH);
  }
  return all;
}

ResidentGradients GatherKvPasses::backward(Context& ctx, const ResidentAttention& call,
                                           const SoftmaxBlockOutput& output,
                                           const Tensor& do_THV) const {
  const DType sums = call.shape.accumulator;
  const SoftmaxBlockInput& local = call.input;
  const Gathered gathered(sp(), call);
  const Tensor row_term = row_term_of(ctx, kernel(), output.o_THV, do_THV);
  const DType dq_dtype = output_dtype(call);
  Tensor dq_THD = ctx.empty(local.q_THD.shape(), dq_dtype);
  KeyValue home = {ctx.zeros(local.k_SKD.shape(), sums), ctx.zeros(local.v_SKV.shape(), sums)};

  KeyTraffic::Return back;
  HeadRange returning;  // of `back`
  auto finish_return = [&] {
    if (returning.count == 0) return;
    gathered.traffic.finish_return(
        ctx, std::move(back), {heads_of(home.k_SKD, returning), heads_of(home.v_SKV, returning)});
  };
  for (GroupWalk walk(ctx, gathered.traffic, call, backward_label(), heads_per_group(call));
       !walk.done(); walk.advance()) {
    const SoftmaxBlockInput block = walk.arrive();
    const HeadRange query = walk.query_heads();
    const KeyValue part = walk.room(sums);
    const SoftmaxBlockBackward gradients{.do_THV = heads_of(do_THV, query).contiguous(),
                                         .lse_TH = heads_of(output.lse_TH, query).contiguous(),
                                         .delta_or_o = heads_of(row_term, query).contiguous(),
                                         .dq_THD = ctx.empty(block.q_THD.shape(), dq_dtype),
                                         .dk_SKD = part.k_SKD,
                                         .dv_SKV = part.v_SKV,
                                         .write_dq = true,
                                         .write_dkv = true};
    kernel().backward(ctx, block, gathered.mask, gradients);
    heads_of(dq_THD, query).copy_from(gradients.dq_THD);
    finish_return();
    returning = walk.kv_heads();
    back = gathered.traffic.start_return(ctx, backward_label(), part);
  }
  finish_return();
  return {dq_THD, home.k_SKD, home.v_SKV};
}

}  // namespace

std::unique_ptr<SoftmaxSchedule> make_gather_kv(Group sp, const SoftmaxBlock& kernel,
                                                int64_t heads_per_group) {
  return make_resident_schedule(
      std::make_shared<GatherKvPasses>(std::move(sp), kernel, heads_per_group));
}

}  // namespace longship
