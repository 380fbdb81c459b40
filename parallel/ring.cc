#include "parallel/ring.h"

#include <algorithm>

#include "parallel/key_value.h"
#include "parallel/visible_rows.h"
#include "runtime/ops/merge_partials.h"

namespace longship {
namespace {

// Room for any rank's keys and values, made when first used.
class KeyValueBuffer {
 public:
  // The first `num_rows` rows of room for `capacity` rows.
  KeyValue rows(const Context& ctx, const AttentionShape& shape, DType dtype, int64_t capacity,
                int64_t num_rows) {
    if (!whole_.defined())
      whole_ = KeyValue::empty(ctx, shape, capacity, shape.num_kv_heads, dtype);
    return {whole_.k_SKD.slice(0, 0, num_rows), whole_.v_SKV.slice(0, 0, num_rows)};
  }

 private:
  KeyValue whole_;
};

// One walk around the ring: who is where, and the keys and values on their way.
class RingWalk {
 public:
  RingWalk(const Group& sp, const SequencePlan& plan, const AttentionShape& shape,
           const MaskRule& rule)
      : sp_(sp),
        plan_(plan),
        shape_(shape),
        rule_(rule),
        num_steps_(ring_steps(plan, rule)),
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
  std::shared_ptr<const BlockMask> mask(int step) const {
    return rank_mask(plan_, plan_.rank(), owner(step), rule_);
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
    add_send(batch, peer(+1), present);
    add_receive(batch, peer(-1), next);
    return next;
  }

  // Every rank takes part, also one whose neighbours have no rows to send or to get.
  Work exchange(std::string_view label, std::vector<P2P> batch) const {
    return sp_.exchange(label, std::move(batch));
  }

 private:
  const Group& sp_;
  const SequencePlan& plan_;
  const AttentionShape& shape_;
  MaskRule rule_;
  int num_steps_;
  int64_t capacity_;
  KeyValueBuffer buffers_[2];
};

class RingPasses final : public ResidentPasses {
 public:
  using ResidentPasses::ResidentPasses;

  SoftmaxBlockOutput forward(Context& ctx, const ResidentAttention& call) const override;
  ResidentGradients backward(Context& ctx, const ResidentAttention& call,
                             const SoftmaxBlockOutput& output, const Tensor& do_THV) const override;
};

SoftmaxBlockOutput RingPasses::forward(Context& ctx, const ResidentAttention& call) const {
  RingWalk walk(sp(), call.plan, call.shape, call.rule);
  SoftmaxBlockInput block = call.input;
  SoftmaxBlockOutput merged;
  for (int step = 0; step <= walk.num_steps(); ++step) {
    std::vector<P2P> batch;
    const KeyValue next = walk.pass_on(ctx, step, {block.k_SKD, block.v_SKV}, batch);
    Work work;
    if (step < walk.num_steps()) work = walk.exchange(forward_label(), std::move(batch));
    const std::shared_ptr<const BlockMask> mask = walk.mask(step);
    if (step == 0) {
      merged = kernel().forward(
          ctx, block, *mask, walk.num_steps() > 0 ? call.shape.accumulator : whole_o_dtype(call));
    } else if (!mask->empty()) {
      const SoftmaxBlockOutput part = kernel().forward(ctx, block, *mask);
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

ResidentGradients RingPasses::backward(Context& ctx, const ResidentAttention& call,
                                       const SoftmaxBlockOutput& output,
                                       const Tensor& do_THV) const {
  const AttentionShape& shape = call.shape;
  RingWalk walk(sp(), call.plan, shape, call.rule);

  SoftmaxBlockInput block = call.input;
  const DType part_dtype = output_dtype(call);
  const DType sums = walk.num_steps() > 0 ? shape.accumulator : part_dtype;
  SoftmaxBlockBackward gradients{.do_THV = do_THV,
                                 .lse_TH = output.lse_TH,
                                 .delta_or_o = row_term_of(ctx, kernel(), output.o_THV, do_THV),
                                 .dq_THD = ctx.empty(block.q_THD.shape(), sums),
                                 .dk_SKD = {},
                                 .dv_SKV = {},
                                 .write_dkv = true};
  KeyValueBuffer own_part, travelling[2];
  KeyValue leaving;  // the gradients of the last step's keys, summed so far
  for (int step = 0; step <= walk.num_steps(); ++step) {
    std::vector<P2P> batch;
    const KeyValue next = walk.pass_on(ctx, step, {block.k_SKD, block.v_SKV}, batch);
    KeyValue sum = walk.rows(ctx, travelling[step % 2], sums, step);
    if (step > 0) {
      add_send(batch, walk.peer(+1), leaving);
      add_receive(batch, walk.peer(-1), sum);
    }
    Work work;
    if (walk.num_steps() > 0) work = walk.exchange(backward_label(), std::move(batch));

    const std::shared_ptr<const BlockMask> mask = walk.mask(step);
    // At the first step nothing arrives: the own part is the sum.
    const KeyValue part = step > 0 ? walk.rows(ctx, own_part, part_dtype, step) : sum;
    if (step == 0 || !mask->empty()) {
      gradients.dk_SKD = part.k_SKD;
      gradients.dv_SKV = part.v_SKV;
      gradients.write_dq = step == 0;
      kernel().backward(ctx, block, *mask, gradients);
    }
    work.wait();
    if (step > 0 && !mask->empty()) accumulate(ctx, sum, part);
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
    add_send(batch, walk.owner(walk.num_steps()), leaving);
    add_receive(batch, walk.peer(walk.num_steps()), home);
    walk.exchange(backward_label(), std::move(batch)).wait();
  }
  return {gradients.dq_THD, home.k_SKD, home.v_SKV};
}

}  // namespace

int ring_steps(const SequencePlan& plan, const MaskRule& rule) {
  const std::shared_ptr<const Visibility> visibility = visibility_of(plan, rule);
  const int num_ranks = plan.num_ranks();
  int steps = 0;
  for (int query_rank = 0; query_rank < num_ranks; ++query_rank)
    for (int key_rank = 0; key_rank < num_ranks; ++key_rank)
      if (!visibility->between(query_rank, key_rank).empty())
        steps = std::max(steps, (query_rank - key_rank + num_ranks) % num_ranks);
  return steps;
}

std::shared_ptr<const ResidentPasses> make_ring_passes(const char* name, Group ring,
                                                       const SoftmaxBlock& kernel) {
  return std::make_shared<RingPasses>(name, std::move(ring), kernel);
}

std::unique_ptr<SoftmaxSchedule> make_ring(Group sp, const SoftmaxBlock& kernel) {
  return make_resident_schedule(make_ring_passes("ring", std::move(sp), kernel));
}

}  // namespace longship
