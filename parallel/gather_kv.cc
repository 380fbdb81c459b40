#include "parallel/gather_kv.h"

#include <algorithm>

#include "parallel/resident_schedule.h"
#include "parallel/ulysses.h"
#include "runtime/ops/accumulate.h"
#include "runtime/ops/softmax_delta.h"

namespace longship {
namespace {

// Keys and values, or their gradients, of a group of KV heads.
struct KeyValue {
  Tensor k_SKD, v_SKV;
};

Tensor heads(const Tensor& x_THX, HeadRange span) {
  return x_THX.slice(1, span.begin, span.count);
}

// What this rank sends to whom and gets from whom, the same for every group of heads.
class KeyValueTraffic {
 public:
  KeyValueTraffic(const Group& sp, const SequencePlan& plan, const AttentionShape& shape,
                  int64_t window)
      : sp_(sp),
        plan_(plan),
        shape_(shape),
        visibility_(plan, window),
        keys_(GatheredKeys::of(plan, visibility_)),
        mask_(causal_document_mask(plan.local_segments(), keys_.segments, window)) {}

  const BlockMask& mask() const { return mask_; }

  // Room for the rows gathered of `num_heads` KV heads.
  KeyValue gathered(const Context& ctx, int64_t num_heads, DType dtype) const {
    return room(ctx, keys_.num_rows, num_heads, dtype);
  }

  // Starts the gather of local keys and values into `into`.
  Work gather(std::string_view label, const KeyValue& local, const KeyValue& into) const {
    std::vector<P2P> batch;
    for (int peer = 0; peer < plan_.num_ranks(); ++peer) {
      const KeyValue part = part_of(into, peer);
      if (peer == plan_.rank()) {
        part.k_SKD.copy_from(local.k_SKD);
        part.v_SKV.copy_from(local.v_SKV);
        continue;
      }
      add(batch, P2P::Kind::kSend, peer, rows_of(local, seen_by(peer)));
      add(batch, P2P::Kind::kReceive, peer, part);
    }
    return sp_.exchange(label, std::move(batch));
  }

  // Gradients of gathered keys on the way to their owners.
  struct Return {
    KeyValue gradients;             // of the gathered rows; this rank's own among them
    std::vector<KeyValue> arrived;  // by rank that computed them; undefined for this rank
    Work work;
  };

  Return start_return(const Context& ctx, std::string_view label, KeyValue gradients) const {
    Return back{.gradients = std::move(gradients),
                .arrived = std::vector<KeyValue>(static_cast<size_t>(plan_.num_ranks())),
                .work = {}};
    std::vector<P2P> batch;
    const Tensor& dk_SKD = back.gradients.k_SKD;
    for (int peer = 0; peer < plan_.num_ranks(); ++peer) {
      if (peer == plan_.rank()) continue;
      KeyValue& arriving = back.arrived[static_cast<size_t>(peer)];
      arriving = room(ctx, seen_by(peer).count, dk_SKD.dim(1), dk_SKD.dtype());
      add(batch, P2P::Kind::kSend, peer, part_of(back.gradients, peer));
      add(batch, P2P::Kind::kReceive, peer, arriving);
    }
    back.work = sp_.exchange(label, std::move(batch));
    return back;
  }

  // Adds to `sums`, all local rows of the same heads, what every rank returns, in rank order.
  void finish_return(const Context& ctx, Return back, const KeyValue& sums) const {
    back.work.wait();
    for (int peer = 0; peer < plan_.num_ranks(); ++peer) {
      const KeyValue part = peer == plan_.rank() ? part_of(back.gradients, peer)
                                                 : back.arrived[static_cast<size_t>(peer)];
      const KeyValue into = rows_of(sums, seen_by(peer));
      accumulate(ctx, into.k_SKD, part.k_SKD);
      accumulate(ctx, into.v_SKV, part.v_SKV);
    }
  }

 private:
  KeyValue room(const Context& ctx, int64_t num_rows, int64_t num_heads, DType dtype) const {
    return {ctx.empty({num_rows, num_heads, shape_.head_size}, dtype),
            ctx.empty({num_rows, num_heads, shape_.value_size}, dtype)};
  }

  static KeyValue rows_of(const KeyValue& kv, RowRange rows) {
    return {kv.k_SKD.slice(0, rows.begin, rows.count), kv.v_SKV.slice(0, rows.begin, rows.count)};
  }

  // Local rows whose keys `peer` gathers.
  RowRange seen_by(int peer) const { return visibility_.between(peer, plan_.rank()).keys; }

  // The rows of a gathered tensor that come from `peer`.
  KeyValue part_of(const KeyValue& gathered, int peer) const {
    const GatheredKeys::Part& part = keys_.parts[static_cast<size_t>(peer)];
    return rows_of(gathered, {part.first_row, part.rows.count});
  }

  static void add(std::vector<P2P>& batch, P2P::Kind kind, int peer, const KeyValue& kv) {
    if (kv.k_SKD.dim(0) == 0) return;  // both sides know
    batch.push_back({kind, peer, kv.k_SKD});
    batch.push_back({kind, peer, kv.v_SKV});
  }

  const Group& sp_;
  const SequencePlan& plan_;
  const AttentionShape& shape_;
  Visibility visibility_;
  GatheredKeys keys_;
  BlockMask mask_;
};

// Walks over the groups of KV heads, always one gather ahead.
class GroupWalk {
 public:
  // The local tensors of `input` must outlive the walk.
  GroupWalk(Context& ctx, const KeyValueTraffic& traffic, const SoftmaxBlockInput& input,
            std::string_view label, int64_t heads_per_group)
      : ctx_(ctx),
        traffic_(traffic),
        input_(input),
        label_(label),
        heads_per_group_(heads_per_group) {
    start();
  }

  bool done() const { return begin_ == num_kv_heads(); }
  HeadRange kv_heads() const { return group_at(begin_); }
  HeadRange query_heads() const {
    const int64_t each = input_.q_THD.dim(1) / num_kv_heads();
    return {kv_heads().begin * each, kv_heads().count * each};
  }

  // The queries of this group over the gathered keys, once they are there and the next group has
  // started on its way.
  SoftmaxBlockInput arrive() {
    work_.wait();
    const KeyValue present = std::move(arriving_);
    const HeadRange kv = kv_heads(), query = query_heads();
    begin_next_ = begin_ + kv.count;
    start();
    return {.q_THD = heads(input_.q_THD, query).contiguous(),
            .k_SKD = present.k_SKD,
            .v_SKV = present.v_SKV,
            .kv_head = grouped_kv_heads(query.count, kv.count),
            .scale = input_.scale};
  }

  void advance() { begin_ = begin_next_; }

 private:
  int64_t num_kv_heads() const { return input_.k_SKD.dim(1); }
  HeadRange group_at(int64_t begin) const {
    return {begin, std::min(heads_per_group_, num_kv_heads() - begin)};
  }

  // Starts the gather of the group that begins at begin_next_, if there is one.
  void start() {
    work_ = {};
    if (begin_next_ == num_kv_heads()) return;
    const HeadRange span = group_at(begin_next_);
    arriving_ = traffic_.gathered(ctx_, span.count, input_.k_SKD.dtype());
    work_ = traffic_.gather(
        label_, {heads(input_.k_SKD, span).contiguous(), heads(input_.v_SKV, span).contiguous()},
        arriving_);
  }

  Context& ctx_;
  const KeyValueTraffic& traffic_;
  const SoftmaxBlockInput& input_;
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
    LONGSHIP_CHECK(heads_per_group > 0, "groups of {} key/value heads", heads_per_group);
  }

  SoftmaxBlockOutput forward(Context& ctx, const ResidentAttention& call) const override;
  ResidentGradients backward(Context& ctx, const ResidentAttention& call,
                             const SoftmaxBlockOutput& output, const Tensor& do_THV) const override;

 private:
  int64_t heads_per_group_;
};

SoftmaxBlockOutput GatherKvPasses::forward(Context& ctx, const ResidentAttention& call) const {
  const AttentionShape& shape = call.shape;
  const KeyValueTraffic traffic(sp(), call.plan, shape, call.window);
  const SoftmaxBlockOutput all = {
      ctx.empty({shape.num_tokens, shape.num_heads, shape.value_size}, shape.dtype),
      ctx.empty({shape.num_tokens, shape.num_heads}, shape.accumulator)};
  for (GroupWalk walk(ctx, traffic, call.input, "gather_kv.fwd", heads_per_group_); !walk.done();
       walk.advance()) {
    const SoftmaxBlockOutput part = kernel().forward(ctx, walk.arrive(), traffic.mask());
    heads(all.o_THV, walk.query_heads()).copy_from(part.o_THV);
    heads(all.lse_TH, walk.query_heads()).copy_from(part.lse_TH);
  }
  return all;
}

ResidentGradients GatherKvPasses::backward(Context& ctx, const ResidentAttention& call,
                                           const SoftmaxBlockOutput& output,
                                           const Tensor& do_THV) const {
  constexpr std::string_view kLabel = "gather_kv.bwd";
  const DType sums = call.shape.accumulator;
  const SoftmaxBlockInput& local = call.input;
  const KeyValueTraffic traffic(sp(), call.plan, call.shape, call.window);
  const Tensor delta_TH = softmax_delta(ctx, output.o_THV, do_THV);
  Tensor dq_THD = ctx.empty(local.q_THD.shape(), sums);
  KeyValue home = {ctx.zeros(local.k_SKD.shape(), sums), ctx.zeros(local.v_SKV.shape(), sums)};

  KeyValueTraffic::Return back;
  HeadRange returning;  // of `back`
  auto finish_return = [&] {
    if (returning.count == 0) return;
    traffic.finish_return(ctx, std::move(back),
                          {heads(home.k_SKD, returning), heads(home.v_SKV, returning)});
  };
  for (GroupWalk walk(ctx, traffic, local, kLabel, heads_per_group_); !walk.done();
       walk.advance()) {
    const SoftmaxBlockInput block = walk.arrive();
    const HeadRange query = walk.query_heads();
    KeyValue part = traffic.gathered(ctx, walk.kv_heads().count, sums);
    part.k_SKD.fill_zero();
    part.v_SKV.fill_zero();
    const SoftmaxBlockBackward gradients{.do_THV = heads(do_THV, query).contiguous(),
                                         .lse_TH = heads(output.lse_TH, query).contiguous(),
                                         .delta_TH = heads(delta_TH, query).contiguous(),
                                         .dq_THD = ctx.zeros(block.q_THD.shape(), sums),
                                         .dk_SKD = part.k_SKD,
                                         .dv_SKV = part.v_SKV};
    kernel().backward(ctx, block, traffic.mask(), gradients);
    heads(dq_THD, query).copy_from(gradients.dq_THD);
    finish_return();
    returning = walk.kv_heads();
    back = traffic.start_return(ctx, kLabel, std::move(part));
  }
  finish_return();
  return {dq_THD, home.k_SKD, home.v_SKV};
}

}  // namespace

GatheredKeys GatheredKeys::of(const SequencePlan& plan, const Visibility& visibility) {
  GatheredKeys keys;
  std::vector<Segment> held;
  for (int peer = 0; peer < plan.num_ranks(); ++peer) {
    const RowRange rows = visibility.between(plan.rank(), peer).keys;
    for (Segment& segment : segments_in(plan.segments(peer), rows)) {
      segment.slot += keys.num_rows;
      held.push_back(segment);
    }
    keys.parts.push_back({keys.num_rows, rows});
    keys.num_rows += rows.count;
  }
  std::ranges::sort(held, {}, &Segment::global_begin);
  for (const Segment& next : held) {
    if (!keys.segments.empty()) {
      Segment& last = keys.segments.back();
      if (last.document == next.document && last.position + last.length == next.position &&
          last.slot + last.length == next.slot) {
        last.length += next.length;
        continue;
      }
    }
    keys.segments.push_back(next);
  }
  return keys;
}

std::unique_ptr<SoftmaxSchedule> make_gather_kv(Group sp, const SoftmaxBlock& kernel,
                                                int64_t heads_per_group) {
  return make_resident_schedule(
      std::make_shared<GatherKvPasses>(std::move(sp), kernel, heads_per_group));
}

}  // namespace longship
