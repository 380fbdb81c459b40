#include "parallel/ring.h"

#include <algorithm>

#include "parallel/attention_shape.h"
#include "parallel/softmax_schedule.h"
#include "runtime/ops/accumulate.h"
#include "runtime/ops/merge_partials.h"
#include "runtime/ops/softmax_delta.h"

namespace longship {
namespace {

// Keys and values of one rank, or their gradients.
struct KeyValue {
  Tensor k_SKD, v_SKV;
};

// Room for any rank's keys and values, made when first used.
class KeyValueBuffer {
 public:
  // The first `num_rows` rows of room for `capacity` rows.
  KeyValue rows(const Context& ctx, const AttentionShape& shape, DType dtype, int64_t capacity,
                int64_t num_rows) {
    if (!whole_.k_SKD.defined())
      whole_ = {ctx.empty({capacity, shape.num_kv_heads, shape.head_size}, dtype),
                ctx.empty({capacity, shape.num_kv_heads, shape.value_size}, dtype)};
    return {whole_.k_SKD.slice(0, 0, num_rows), whole_.v_SKV.slice(0, 0, num_rows)};
  }

 private:
  KeyValue whole_;
};

void send(std::vector<P2P>& batch, int peer, const KeyValue& kv) {
  batch.push_back(P2P::send(peer, kv.k_SKD));
  batch.push_back(P2P::send(peer, kv.v_SKV));
}

void receive(std::vector<P2P>& batch, int peer, const KeyValue& kv) {
  batch.push_back(P2P::receive(peer, kv.k_SKD));
  batch.push_back(P2P::receive(peer, kv.v_SKV));
}

// One walk around the ring: who is where, and the keys and values on their way.
class RingWalk {
 public:
  RingWalk(const Group& sp, const SequencePlan& plan, const AttentionShape& shape, int64_t window)
      : sp_(sp),
        plan_(plan),
        shape_(shape),
        window_(window),
        num_steps_(ring_steps(plan, window)),
        capacity_(std::ranges::max(plan.tokens_per_rank())) {}

  int num_steps() const { return num_steps_; }
  // Rank `distance` places along the ring.
  int peer(int distance) const {
    const int size = plan_.num_ranks();
    return ((plan_.rank() + distance) % size + size) % size;
  }
  // Whose keys this rank uses at a step.
  int owner(int step) const { return peer(-step); }

  // Local queries over the keys of a step.
  BlockMask mask(int step) const {
    return causal_document_mask(plan_.local_segments(), plan_.segments(owner(step)), window_);
  }

  // Rows for the keys and values (or gradients) of a step's owner.
  KeyValue rows(const Context& ctx, KeyValueBuffer& buffer, DType dtype, int step) const {
    return buffer.rows(ctx, shape_, dtype, capacity_, plan_.num_tokens(owner(step)));
  }

  // Adds to `batch` that `present`, the keys of this step, moves on and the next ones arrive.
  // Returns the arriving ones; undefined at the last step.
  KeyValue pass_on(const Context& ctx, int step, const KeyValue& present, std::vector<P2P>& batch) {
    if (step == num_steps_) return {};
    // The other buffer holds the present keys, or held those of the step before, which have left.
    const KeyValue next = rows(ctx, buffers_[step % 2], shape_.dtype, step + 1);
    send(batch, peer(+1), present);
    receive(batch, peer(-1), next);
    return next;
  }

  Work exchange(std::string_view label, std::vector<P2P> batch) const {
    return batch.empty() ? Work() : sp_.exchange(label, std::move(batch));
  }

 private:
  const Group& sp_;
  const SequencePlan& plan_;
  const AttentionShape& shape_;
  int64_t window_;
  int num_steps_;
  int64_t capacity_;
  KeyValueBuffer buffers_[2];
};

struct RingNode final : Node {
  struct Saved {
    SoftmaxBlockInput input;    // local q, k, v
    SoftmaxBlockOutput output;  // merged over all steps
    AttentionShape shape;
    SequencePlan plan;
    int64_t window = 0;
  } saved;
  Group sp;
  const SoftmaxBlock* kernel;

  RingNode(Saved kept, const Group& group, const SoftmaxBlock& block)
      : saved(std::move(kept)), sp(group), kernel(&block) {}

  const char* name() const override { return "ring"; }
  void backward(Context& ctx) override;
  void visit_saved(const SavedVisitor& visit) override {
    visit("q_THD", saved.input.q_THD);
    visit("k_TKD", saved.input.k_SKD);
    visit("v_TKV", saved.input.v_SKV);
    visit("o_THV", saved.output.o_THV);
    visit("lse_TH", saved.output.lse_TH);
  }
};

void RingNode::backward(Context& ctx) {
  constexpr std::string_view kLabel = "ring.bwd";
  const AttentionShape& shape = saved.shape;
  const DType sums = shape.accumulator;
  RingWalk walk(sp, saved.plan, shape, saved.window);

  SoftmaxBlockInput block = saved.input;
  const Tensor do_THV = grad_output(ctx);
  SoftmaxBlockBackward gradients{.do_THV = do_THV,
                                 .lse_TH = saved.output.lse_TH,
                                 .delta_TH = softmax_delta(ctx, saved.output.o_THV, do_THV),
                                 .dq_THD = ctx.zeros(block.q_THD.shape(), sums),
                                 .dk_SKD = {},
                                 .dv_SKV = {}};
  KeyValueBuffer own_part, travelling[2];
  KeyValue leaving;  // the gradients of the last step's keys, summed so far
  for (int step = 0; step <= walk.num_steps(); ++step) {
    std::vector<P2P> batch;
    const KeyValue next = walk.pass_on(ctx, step, {block.k_SKD, block.v_SKV}, batch);
    KeyValue sum = walk.rows(ctx, travelling[step % 2], sums, step);
    if (step > 0) {
      send(batch, walk.peer(+1), leaving);
      receive(batch, walk.peer(-1), sum);
    }
    Work work = walk.exchange(kLabel, std::move(batch));

    const BlockMask mask = walk.mask(step);
    // At the first step nothing arrives: the own part is the sum.
    const KeyValue part = step > 0 ? walk.rows(ctx, own_part, sums, step) : sum;
    if (step == 0 || !mask.empty()) {
      part.k_SKD.fill_zero();
      part.v_SKV.fill_zero();
      gradients.dk_SKD = part.k_SKD;
      gradients.dv_SKV = part.v_SKV;
      kernel->backward(ctx, block, mask, gradients);
    }
    work.wait();
    if (step > 0 && !mask.empty()) {
      accumulate(ctx, sum.k_SKD, part.k_SKD);
      accumulate(ctx, sum.v_SKV, part.v_SKV);
    }
    leaving = std::move(sum);
    if (step < walk.num_steps()) {
      block.k_SKD = next.k_SKD;
      block.v_SKV = next.v_SKV;
    }
  }

  KeyValue home = leaving;
  if (walk.num_steps() > 0) {
    home = walk.rows(ctx, travelling[(walk.num_steps() + 1) % 2], sums, 0);
    std::vector<P2P> batch;
    send(batch, walk.owner(walk.num_steps()), leaving);
    receive(batch, walk.peer(walk.num_steps()), home);
    walk.exchange(kLabel, std::move(batch)).wait();
  }
  if (input(0)) input(0)->add(ctx, std::move(gradients.dq_THD));
  if (input(1)) input(1)->add(ctx, std::move(home.k_SKD));
  if (input(2)) input(2)->add(ctx, std::move(home.v_SKV));
}

class Ring final : public SoftmaxSchedule {
 public:
  Ring(Group sp, const SoftmaxBlock& kernel) : sp_(std::move(sp)), kernel_(kernel) {}

  Variable attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD, const Variable& v_TKV,
                  const SequencePlan& plan, const AttentionOptions& options) const override {
    check_plan_matches(plan, sp_);
    const auto shape = AttentionShape::of(q_THD.value(), k_TKD.value(), v_TKV.value(), plan);
    const SoftmaxBlockInput input{.q_THD = q_THD.value().contiguous(),
                                  .k_SKD = k_TKD.value().contiguous(),
                                  .v_SKV = v_TKV.value().contiguous(),
                                  .kv_head = grouped_kv_heads(shape.num_heads, shape.num_kv_heads),
                                  .scale = options.scale};
    SoftmaxBlockOutput output = forward(ctx, input, RingWalk(sp_, plan, shape, options.window));
    output.o_THV = output.o_THV.to(shape.dtype);
    Tensor o_THV = output.o_THV;
    std::unique_ptr<RingNode> node;
    if (is_recording(ctx, {&q_THD, &k_TKD, &v_TKV}))
      node = std::make_unique<RingNode>(
          RingNode::Saved{input, std::move(output), shape, plan, options.window}, sp_, kernel_);
    return record(ctx, "ring", std::move(o_THV), std::move(node), {&q_THD, &k_TKD, &v_TKV});
  }

 private:
  SoftmaxBlockOutput forward(Context& ctx, SoftmaxBlockInput block, RingWalk walk) const {
    SoftmaxBlockOutput merged;
    for (int step = 0; step <= walk.num_steps(); ++step) {
      std::vector<P2P> batch;
      const KeyValue next = walk.pass_on(ctx, step, {block.k_SKD, block.v_SKV}, batch);
      Work work = walk.exchange("ring.fwd", std::move(batch));
      const BlockMask mask = walk.mask(step);
      if (step == 0) {
        merged = kernel_.forward(ctx, block, mask);
      } else if (!mask.empty()) {
        const SoftmaxBlockOutput part = kernel_.forward(ctx, block, mask);
        merge_partials(ctx, merged.o_THV, merged.lse_TH, part.o_THV, part.lse_TH);
      }
      work.wait();
      if (step < walk.num_steps()) {
        block.k_SKD = next.k_SKD;
        block.v_SKV = next.v_SKV;
      }
    }
    return merged;
  }

  Group sp_;
  const SoftmaxBlock& kernel_;
};

}  // namespace

int ring_steps(const SequencePlan& plan, int64_t window) {
  struct Held {
    Segment segment;
    int rank;
  };
  const int num_ranks = plan.num_ranks();
  std::vector<Held> held;
  for (int rank = 0; rank < num_ranks; ++rank)
    for (const Segment& segment : plan.segments(rank)) held.push_back({segment, rank});
  std::sort(held.begin(), held.end(), [](const Held& a, const Held& b) {
    return a.segment.global_begin < b.segment.global_begin;
  });
  int steps = 0;
  for (size_t q = 0; q < held.size(); ++q) {
    const Segment& query = held[q].segment;
    for (size_t k = q; k-- > 0 && held[k].segment.document == query.document;) {
      const Segment& key = held[k].segment;
      if (window > 0 && query.position - (key.position + key.length - 1) >= window) break;
      steps = std::max(steps, (held[q].rank - held[k].rank + num_ranks) % num_ranks);
      if (steps == num_ranks - 1) return steps;
    }
  }
  return steps;
}

std::unique_ptr<SoftmaxSchedule> make_ring(Group sp, const SoftmaxBlock& kernel) {
  return std::make_unique<Ring>(std::move(sp), kernel);
}

}  // namespace longship
