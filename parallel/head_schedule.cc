#include "parallel/head_schedule.h"

#include <algorithm>
#include <optional>

#include "parallel/visible_pairs.h"

namespace longship {
namespace {

// Names: T tokens of this rank, S of its group, H (K) all query (KV) heads, N the heads of this
// rank in one group of heads.

// A group of heads: attention of this rank's heads over the tokens of its group of ranks.
struct HeadPart {
  HeadRoute route;
  HeadTransfer inputs;     // brings q, k and v of the call
  ResidentAttention call;  // valid after inputs.wait()
  SoftmaxBlockOutput output = {};
};

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

// Gradients of the local tokens on their way home.
struct Homecoming {
  explicit Homecoming(const Group& group) : first(group), last(group) {}

  Tensor dq_THD, dk_TKD, dv_TKV;
  // All but dq of the last group of heads, which departs behind dk and dv.
  HeadTransfer first, last;
};

struct HeadNode final : Node {
  std::vector<HeadPart> parts;
  AttentionShape shape;  // tokens of this rank, all heads
  std::shared_ptr<const ResidentPasses> passes;

  HeadNode(std::vector<HeadPart> kept, const AttentionShape& whole,
           std::shared_ptr<const ResidentPasses> computing)
      : parts(std::move(kept)), shape(whole), passes(std::move(computing)) {}

  const char* name() const override { return passes->name(); }

  void backward(Context& ctx) override {
    const Tensor do_THV = grad_output(ctx);
    const Tensor dsink_H = input(3) ? ctx.zeros({shape.num_heads}, shape.accumulator) : Tensor();
    const auto home = std::make_shared<Homecoming>(parts[0].route.group());
    const size_t last = parts.size() - 1;
    OutputGradient arriving = start(ctx, 0, do_THV);
    for (size_t i = 0; i <= last; ++i) {
      parts[i].inputs.wait();
      arriving.transfer.wait();
      const Tensor do_SNV = std::move(arriving.do_SNV);
      if (i < last) arriving = start(ctx, i + 1, do_THV);
      // What the part has saved is freed with it.
      const HeadPart part = std::move(parts[i]);
      if (input(3)) add_sink_gradient(ctx, part, do_SNV, dsink_H);
      send_home(ctx, part, gradients_of(ctx, part, do_SNV), *home, i == last);
    }
    if (input(3)) input(3)->add(ctx, dsink_H);
    add_to_inputs(ctx, home);
  }

  void visit_saved(const SavedVisitor& visit) override {
    for (HeadPart& part : parts) {
      part.inputs.wait();
      visit_attention(visit, part.call, part.output);
    }
  }

 private:
  struct OutputGradient {
    HeadTransfer transfer;
    Tensor do_SNV;
  };

  OutputGradient start(const Context& ctx, size_t i, const Tensor& do_THV) const {
    const HeadRoute& route = parts[i].route;
    OutputGradient arriving{HeadTransfer(route.group()), {}};
    arriving.do_SNV = arriving.transfer.to_heads(ctx, route.query, do_THV);
    arriving.transfer.depart(passes->backward_label());
    return arriving;
  }

  ResidentGradients gradients_of(Context& ctx, const HeadPart& part, const Tensor& do_SNV) const {
    if (part.route.mine.query.count > 0)
      return passes->backward(ctx, part.call, part.output, do_SNV);
    const SoftmaxBlockInput& in = part.call.input;  // of no heads
    return {ctx.empty(in.q_THD.shape(), shape.accumulator),
            ctx.empty(in.k_SKD.shape(), shape.accumulator),
            ctx.empty(in.v_SKV.shape(), shape.accumulator)};
  }

  void add_sink_gradient(const Context& ctx, const HeadPart& part, const Tensor& do_SNV,
                         const Tensor& dsink_H) const {
    const HeadRange mine = part.route.mine.query;
    if (mine.count > 0)
      dsink_H.slice(0, mine.begin, mine.count)
          .copy_from(sink_gradient(ctx, part.call, part.output, do_SNV));
  }

  void send_home(const Context& ctx, const HeadPart& part, ResidentGradients gradients,
                 Homecoming& home, bool is_last) const {
    const HeadRoute& route = part.route;
    const DType dtype = shape.dtype;
    const DType kv_dtype = route.kv.is_shared() ? shape.accumulator : dtype;
    if (!home.dq_THD.defined()) {
      auto room = [&](bool is_sum, int64_t num_heads, int64_t size) {
        const Shape of = {shape.num_tokens, num_heads, size};
        return is_sum ? ctx.zeros(of, shape.accumulator) : ctx.empty(of, dtype);
      };
      home.dq_THD = room(false, shape.num_heads, shape.head_size);
      home.dk_TKD = room(route.kv.is_shared(), shape.num_kv_heads, shape.head_size);
      home.dv_TKV = room(route.kv.is_shared(), shape.num_kv_heads, shape.value_size);
    }
    home.first.to_tokens(ctx, route.kv, gradients.dk_TKD.to(kv_dtype), home.dk_TKD);
    home.first.to_tokens(ctx, route.kv, gradients.dv_TKV.to(kv_dtype), home.dv_TKV);
    HeadTransfer& with_queries = is_last ? home.last : home.first;
    if (is_last) home.first.depart(passes->backward_label());
    with_queries.to_tokens(ctx, route.query, gradients.dq_THD.to(dtype), home.dq_THD);
    with_queries.depart(passes->backward_label());
    if (route.kv.is_shared()) home.first.arrive(ctx);
  }

  void add_to_inputs(Context& ctx, const std::shared_ptr<Homecoming>& home) {
    auto add = [&](size_t i, Tensor Homecoming::*gradient, bool has_queries) {
      if (!input(i)) return;
      input(i)->add_later(ctx, [=] {
        home->first.wait();
        if (has_queries) home->last.wait();
        return std::move((*home).*gradient);
      });
    };
    add(0, &Homecoming::dq_THD, true);
    add(1, &Homecoming::dk_TKD, false);
    add(2, &Homecoming::dv_TKV, false);
  }
};

// One forward pass over the groups of heads.
class HeadForward {
 public:
  HeadForward(const HeadGrid& grid, const std::vector<std::vector<HeadShare>>& groups,
              const AttentionShape& shape, const SequencePlan& plan,
              const AttentionOptions& options)
      : shape_(shape), passes_(grid.passes), home_(grid.heads) {
    const int group_size = grid.heads.size();
    const SequencePlan coarse = plan.coarsened(group_size);
    const std::shared_ptr<const GroupRows> rows = plan.rows_in_group(group_size);
    for (const std::vector<HeadShare>& shares : groups) {
      HeadRoute route = HeadRoute::of(grid.heads, rows, shares);
      ResidentAttention call{.input = {.q_THD = {},
                                       .k_SKD = {},
                                       .v_SKV = {},
                                       .kv_head = kv_heads_of(route.mine, shape),
                                       .scale = options.scale},
                             .shape = shape,
                             .plan = coarse,
                             .rule = options.mask_rule(),
                             .sink_logit_H = sink_logit_of(options, route.mine, shape)};
      call.shape.num_tokens = coarse.num_local_tokens();
      call.shape.num_heads = route.mine.query.count;
      call.shape.num_kv_heads = route.mine.kv.count;
      parts_.push_back({std::move(route), HeadTransfer(grid.heads), std::move(call)});
    }
  }

  // The outputs of the first run of a block that runs again go home ahead of everything.
  void begin(const Context& ctx) {
    for (HeadPart& part : parts_) {
      const std::optional<SoftmaxBlockOutput> kept = kept_output(ctx);
      is_kept_ = kept.has_value();
      if (!is_kept_) return;
      part.output = *kept;
      send_home(ctx, part);
    }
  }

  // The inputs of the first group of heads, which travel from depart() on.
  void give_q(const Context& ctx, const Tensor& q_THD) {
    check(q_THD, shape_.num_heads, shape_.head_size);
    load_q(ctx, parts_[0], q_THD);
  }
  void give_k(const Context& ctx, const Tensor& k_TKD) {
    check(k_TKD, shape_.num_kv_heads, shape_.head_size);
    load_k(ctx, parts_[0], k_TKD);
  }
  void give_v(const Context& ctx, const Tensor& v_TKV) {
    check(v_TKV, shape_.num_kv_heads, shape_.value_size);
    load_v(ctx, parts_[0], v_TKV);
  }
  void depart() { parts_[0].inputs.depart(passes_->forward_label()); }

  // o_THV, when all inputs of the first group have departed.
  Tensor finish(Context& ctx, const Tensor& q_THD, const Tensor& k_TKD, const Tensor& v_TKV) {
    for (size_t i = 0; i < parts_.size(); ++i) {
      if (!is_kept_) parts_[i].inputs.wait();
      if (i + 1 < parts_.size()) {
        load_q(ctx, parts_[i + 1], q_THD);
        load_k(ctx, parts_[i + 1], k_TKD);
        load_v(ctx, parts_[i + 1], v_TKV);
        parts_[i + 1].inputs.depart(passes_->forward_label());
      }
      if (is_kept_) continue;
      parts_[i].output = attend_with_sink(ctx, *passes_, parts_[i].call);
      send_home(ctx, parts_[i]);
    }
    home_.wait();
    return std::move(o_THV_);
  }

  std::vector<HeadPart> take_parts() { return std::move(parts_); }

 private:
  void check(const Tensor& x_THX, int64_t num_heads, int64_t size) const {
    LONGSHIP_CHECK(x_THX.shape() == (Shape{shape_.num_tokens, num_heads, size}) &&
                       x_THX.dtype() == shape_.dtype,
                   "attention was announced {} heads of {} for {} tokens in {}, and given {} in {}",
                   num_heads, size, shape_.num_tokens, dtype_name(shape_.dtype),
                   shape_string(x_THX.shape()), dtype_name(x_THX.dtype()));
  }

  void load_q(const Context& ctx, HeadPart& part, const Tensor& q_THD) const {
    part.call.input.q_THD = part.inputs.to_heads(ctx, part.route.query, q_THD);
  }
  void load_k(const Context& ctx, HeadPart& part, const Tensor& k_TKD) const {
    part.call.input.k_SKD = part.inputs.to_heads(ctx, part.route.kv, k_TKD);
  }
  void load_v(const Context& ctx, HeadPart& part, const Tensor& v_TKV) const {
    part.call.input.v_SKV = part.inputs.to_heads(ctx, part.route.kv, v_TKV);
  }

  void send_home(const Context& ctx, const HeadPart& part) {
    if (!o_THV_.defined())
      o_THV_ = ctx.empty({shape_.num_tokens, shape_.num_heads, shape_.value_size}, shape_.dtype);
    home_.to_tokens(ctx, part.route.query, part.output.o_THV, o_THV_);
    home_.depart(passes_->forward_label());
  }

  const AttentionShape shape_;
  const std::shared_ptr<const ResidentPasses> passes_;
  std::vector<HeadPart> parts_;
  HeadTransfer home_;
  Tensor o_THV_;
  bool is_kept_ = false;
};

}  // namespace

HeadSchedule::HeadSchedule(const char* name, Group sp, int64_t max_groups)
    : name_(name), sp_(std::move(sp)), max_groups_(max_groups) {
  LONGSHIP_CHECK(max_groups >= 0, "{} groups of heads", max_groups);
}

// The same on all ranks, as those in other groups of ranks compute the same heads together.
std::vector<std::vector<HeadShare>> HeadSchedule::groups_of(const AttentionShape& shape,
                                                            const HeadGrid& grid,
                                                            const SequencePlan& plan,
                                                            const MaskRule& rule,
                                                            DeviceKind device) const {
  const int group_size = grid.heads.size();
  const auto shares = deal_heads(shape.num_heads, shape.num_kv_heads, group_size);
  if (max_groups_ > 0) return in_groups(shares, max_groups_);
  const int64_t rows = plan.num_tokens() / (plan.num_ranks() / group_size);
  const double keys_per_query = static_cast<double>(num_visible_pairs(plan, rule)) /
                                static_cast<double>(std::max<int64_t>(plan.num_tokens(), 1));
  return in_groups(
      shares, num_groups_that_pay(device, rows * (shape.num_heads / group_size), keys_per_query));
}

Variable HeadSchedule::attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD,
                              const Variable& v_TKV, const SequencePlan& plan,
                              const AttentionOptions& options) const {
  check_plan_matches(plan, sp_);
  const AttentionSources ready = {
      .shape = AttentionShape::of(q_THD.value(), k_TKD.value(), v_TKV.value(), plan),
      .q_THD = [&](Context&) { return q_THD; },
      .k_TKD = [&](Context&) { return k_TKD; },
      .v_TKV = [&](Context&) { return v_TKV; }};
  return attend(ctx, ready, plan, options, Departure::kTogether);
}

Variable HeadSchedule::attend_when_ready(Context& ctx, const AttentionSources& sources,
                                         const SequencePlan& plan,
                                         const AttentionOptions& options) const {
  check_plan_matches(plan, sp_);
  return attend(ctx, sources, plan, options, Departure::kWhenReady);
}

Variable HeadSchedule::attend(Context& ctx, const AttentionSources& sources,
                              const SequencePlan& plan, const AttentionOptions& options,
                              Departure departure) const {
  const AttentionShape& shape = sources.shape;
  const HeadGrid& grid = this->grid(shape);
  if (grid.heads.size() == 1)
    return make_resident_schedule(grid.passes)->attend_when_ready(ctx, sources, plan, options);

  HeadForward forward(grid,
                      groups_of(shape, grid, plan, options.mask_rule(), ctx.memory->device().kind),
                      shape, plan, options);
  forward.begin(ctx);
  const Variable q_THD = sources.q_THD(ctx);
  forward.give_q(ctx, q_THD.value());
  if (departure == Departure::kWhenReady) forward.depart();
  const Variable k_TKD = sources.k_TKD(ctx);
  forward.give_k(ctx, k_TKD.value());
  if (departure == Departure::kWhenReady) forward.depart();
  const Variable v_TKV = sources.v_TKV(ctx);
  forward.give_v(ctx, v_TKV.value());
  forward.depart();
  Tensor o_THV = forward.finish(ctx, q_THD.value(), k_TKD.value(), v_TKV.value());

  std::unique_ptr<HeadNode> node;
  if (is_recording(ctx, {&q_THD, &k_TKD, &v_TKV, &options.sink_logit_H}))
    node = std::make_unique<HeadNode>(forward.take_parts(), shape, grid.passes);
  return record(ctx, name_, std::move(o_THV), std::move(node),
                {&q_THD, &k_TKD, &v_TKV, &options.sink_logit_H});
}

}  // namespace longship
