// Linear attention on whole sequences, by heads (Ulysses, arXiv 2309.14509).
//
// Names: T tokens of this rank, S of all ranks; G key heads and H state heads in all, g and h those
// of this rank.
#include "attention/linear/linear_node.h"
#include "attention/linear/linear_problem.h"
#include "parallel/attention_shape.h"
#include "parallel/head_exchange.h"
#include "runtime/ops/accumulate.h"

namespace longship {
namespace {

constexpr const char* kForward = "ulysses.fwd";
constexpr const char* kBackward = "ulysses.bwd";

// x [T, H] as [T, H, 1].
Tensor with_head_size(const Tensor& x) {
  return x.rank() == 3 ? x : x.reshape({x.dim(0), x.dim(1), 1});
}

// How one call gets to whole heads and back, and which key head each head reads.
class HeadSplit {
 public:
  // `local` has all heads of the local tokens.
  HeadSplit(const Group& sp, const SequencePlan& plan, const LinearInput& local)
      : plan_(plan),
        num_key_heads_(local.q_TGK.dim(1)),
        num_heads_(local.v_THV.dim(1)),
        route_(HeadRoute::of(sp, plan.tokens_per_rank(), num_heads_, num_key_heads_)),
        whole_plan_(SequencePlan::local(plan.cu_seqlens())) {
    const HeadRange& heads = route_.mine.query;
    for (int64_t head = heads.begin; head < heads.end(); ++head)
      key_head_.push_back(head / (num_heads_ / num_key_heads_) - route_.mine.kv.begin);
  }

  const HeadRoute& route() const { return route_; }
  int64_t num_key_heads() const { return num_key_heads_; }
  int64_t num_heads() const { return num_heads_; }
  std::span<const Segment> segments() const { return whole_plan_.local_segments(); }
  bool is_idle() const { return key_head_.empty(); }

  // Rows of all ranks as they arrive, in (rank, slot) order, to batch order and back. They differ
  // on zigzag only.
  Tensor to_batch_order(const Context& ctx, const Tensor& x) const {
    return plan_.layout() == Layout::kContiguous ? x : plan_.unshard(ctx, x);
  }
  Tensor to_rank_order(const Context& ctx, const Tensor& x) const {
    if (plan_.layout() == Layout::kContiguous) return x;
    const Tensor by_rank = ctx.empty(x.shape(), x.dtype());
    for (const Segment& segment : plan_.gathered_segments())
      by_rank.slice(0, segment.slot, segment.length)
          .copy_from(x.slice(0, segment.global_begin, segment.length));
    return by_rank;
  }

  // The kernel's rule is one key head for every h / g heads. Where heads are dealt across that,
  // each reads a copy of its own.
  LinearInput as_kernel_takes(const Context& ctx, LinearInput whole) const {
    if (follows_rule()) return whole;
    for (Tensor* x : {&whole.q_TGK, &whole.k_TGK}) *x = repeated(ctx, *x);
    return whole;
  }
  // The adjoint: adds the gradients of copies, by ascending head.
  void join_copies(const Context& ctx, LinearGradients& gradients) const {
    if (follows_rule()) return;
    for (Tensor* dx : {&gradients.dq_TGK, &gradients.dk_TGK}) *dx = summed(ctx, *dx);
  }

 private:
  bool follows_rule() const {
    const auto heads = static_cast<int64_t>(key_head_.size()), key_heads = route_.mine.kv.count;
    if (heads == 0) return true;
    if (heads % key_heads != 0) return false;
    for (int64_t h = 0; h < heads; ++h)
      if (key_head_[static_cast<size_t>(h)] != h / (heads / key_heads)) return false;
    return true;
  }

  Tensor repeated(const Context& ctx, const Tensor& x_SgK) const {
    const auto heads = static_cast<int64_t>(key_head_.size());
    const Tensor x_ShK = ctx.empty({x_SgK.dim(0), heads, x_SgK.dim(2)}, x_SgK.dtype());
    for (int64_t h = 0; h < heads; ++h)
      x_ShK.slice(1, h, 1).copy_from(x_SgK.slice(1, key_head_[static_cast<size_t>(h)], 1));
    return x_ShK;
  }

  Tensor summed(const Context& ctx, const Tensor& dx_ShK) const {
    const Tensor dx_SgK =
        ctx.zeros({dx_ShK.dim(0), route_.mine.kv.count, dx_ShK.dim(2)}, dx_ShK.dtype());
    for (int64_t h = 0; h < dx_ShK.dim(1); ++h)
      accumulate(ctx, dx_SgK.slice(1, key_head_[static_cast<size_t>(h)], 1),
                 dx_ShK.slice(1, h, 1).contiguous());
    return dx_SgK;
  }

  SequencePlan plan_;
  int64_t num_key_heads_, num_heads_;
  HeadRoute route_;
  SequencePlan whole_plan_;
  std::vector<int64_t> key_head_;  // of each of this rank's heads, among this rank's key heads
};

// The states of whole documents: none.
Tensor no_states(const Context& ctx, const LinearInput& whole) {
  return ctx.empty({0, whole.v_THV.dim(1), whole.q_TGK.dim(2), whole.v_THV.dim(2)},
                   accumulator_dtype(whole.v_THV.dtype()));
}

// All tokens in batch order, this rank's heads.
LinearInput gather_heads(const Context& ctx, const HeadSplit& split, const LinearInput& local) {
  const HeadRoute& route = split.route();
  Transfer q = route.kv.to_heads(ctx, kForward, local.q_TGK),
           k = route.kv.to_heads(ctx, kForward, local.k_TGK),
           v = route.query.to_heads(ctx, kForward, local.v_THV);
  Transfer gate({}, {}), beta({}, {});
  const bool gate_travels = local.gate.defined() && local.gate.rank() > 1;
  if (gate_travels) gate = route.query.to_heads(ctx, kForward, with_head_size(local.gate));
  if (local.beta_TH.defined())
    beta = route.query.to_heads(ctx, kForward, with_head_size(local.beta_TH));

  auto arrived = [&](Transfer& transfer) { return split.to_batch_order(ctx, transfer.arrive()); };
  LinearInput whole{.q_TGK = arrived(q),
                    .k_TGK = arrived(k),
                    .v_THV = arrived(v),
                    .gate = {},
                    .beta_TH = {},
                    .scale = local.scale};
  const HeadRange& heads = route.mine.query;
  const int64_t S = whole.v_THV.dim(0);
  if (gate_travels) {
    whole.gate = arrived(gate);
    if (local.gate.rank() == 2) whole.gate = whole.gate.reshape({S, heads.count});
  } else if (local.gate.defined()) {
    whole.gate = local.gate.slice(0, heads.begin, heads.count).contiguous();
  }
  if (local.beta_TH.defined()) whole.beta_TH = arrived(beta).reshape({S, heads.count});
  return whole;
}

class LinearUlyssesNode final : public LinearNode {
 public:
  // `whole` as gather_heads() made it.
  LinearUlyssesNode(LinearInput whole, const SequencePlan& plan, HeadSplit split,
                    const LinearKernel& of_call)
      : LinearNode(std::move(whole), plan, of_call), split_(std::move(split)) {}

  const char* name() const override { return "linear_ulysses"; }

  void backward(Context& ctx) override {
    Transfer d_o = split_.route().query.to_heads(ctx, kBackward, grad_output(ctx).contiguous());
    const Tensor do_ShV = split_.to_batch_order(ctx, d_o.arrive());
    add(ctx, bring_home(ctx, split_.is_idle() ? no_gradients(ctx) : gradients_of(ctx, do_ShV)));
  }

 private:
  LinearGradients gradients_of(Context& ctx, const Tensor& do_ShV) const {
    const LinearInput input = split_.as_kernel_takes(ctx, saved.input);
    const Tensor states_NHKV = no_states(ctx, input);
    const auto phases = kernel.backward(ctx, input, split_.segments(), {}, states_NHKV, do_ShV);
    phases->intra(ctx);
    LinearGradients gradients = phases->gradients(ctx, states_NHKV);
    split_.join_copies(ctx, gradients);
    return gradients;
  }

  // Of no heads: a rank beyond them has its tokens' gradients to receive all the same.
  LinearGradients no_gradients(const Context& ctx) const {
    const DType sums = accumulator_dtype(saved.input.v_THV.dtype());
    auto like = [&](const Tensor& x) {
      return x.defined() && x.rank() > 1 ? ctx.empty(x.shape(), sums) : Tensor();
    };
    return {.dq_TGK = like(saved.input.q_TGK),
            .dk_TGK = like(saved.input.k_TGK),
            .dv_THV = like(saved.input.v_THV),
            .dgate = like(saved.input.gate),
            .dbeta_TH = like(saved.input.beta_TH)};
  }

  // All heads of the local tokens. Keys' gradients are summed before they are rounded.
  LinearGradients bring_home(const Context& ctx, LinearGradients whole) const {
    const HeadRoute& route = split_.route();
    const DType dtype = saved.input.v_THV.dtype(), sums = accumulator_dtype(dtype);
    const DType key_dtype = route.shares_kv ? sums : dtype;
    auto leave = [&](const HeadExchange& heads, const Tensor& dx, DType travels_as) {
      return heads.to_tokens(ctx, kBackward,
                             split_.to_rank_order(ctx, with_head_size(dx)).to(travels_as));
    };
    Transfer dq = leave(route.kv, whole.dq_TGK, key_dtype),
             dk = leave(route.kv, whole.dk_TGK, key_dtype),
             dv = leave(route.query, whole.dv_THV, dtype);
    Transfer dgate({}, {}), dbeta({}, {});
    if (whole.dgate.defined()) dgate = leave(route.query, whole.dgate, sums);
    if (whole.dbeta_TH.defined()) dbeta = leave(route.query, whole.dbeta_TH, sums);

    const int64_t G = split_.num_key_heads(), H = split_.num_heads(), K = whole.dq_TGK.dim(2),
                  V = whole.dv_THV.dim(2);
    LinearGradients local{.dq_TGK = route.join_kv(ctx, dq.arrive(), G, K),
                          .dk_TGK = route.join_kv(ctx, dk.arrive(), G, K),
                          .dv_THV = route.query.collect(ctx, dv.arrive(), H, V),
                          .dgate = {},
                          .dbeta_TH = {}};
    const int64_t T = saved.plan.num_local_tokens();
    if (whole.dgate.defined()) {
      const bool is_vector = whole.dgate.rank() == 3;
      local.dgate = route.query.collect(ctx, dgate.arrive(), H, is_vector ? K : 1);
      if (!is_vector) local.dgate = local.dgate.reshape({T, H});
    }
    if (whole.dbeta_TH.defined())
      local.dbeta_TH = route.query.collect(ctx, dbeta.arrive(), H, 1).reshape({T, H});
    return local;
  }

  HeadSplit split_;
};

class LinearUlysses final : public LinearSchedule {
 public:
  explicit LinearUlysses(Group sp) : sp_(std::move(sp)) {}

  Variable attend(Context& ctx, const LinearKernel& kernel, const LinearAttentionInput& input,
                  const SequencePlan& plan) const override {
    check_plan_matches(plan, sp_);
    const LinearInput local = packed(input);
    // Checks before anything is sent.
    LinearProblem(local, plan.local_segments(), {},
                  local.beta_TH.defined() ? WriteRule::kDelta : WriteRule::kAdd);
    HeadSplit split(sp_, plan, local);
    LinearInput whole = gather_heads(ctx, split, local);
    Tensor o_ShV = ctx.empty(whole.v_THV.shape(), whole.v_THV.dtype());
    if (!split.is_idle()) {
      const LinearInput taken = split.as_kernel_takes(ctx, whole);
      const auto phases = kernel.forward(ctx, taken, split.segments(), {});
      phases->intra(ctx);
      o_ShV = phases->outputs(ctx, no_states(ctx, taken));
    }
    const HeadExchange& heads = split.route().query;
    Transfer o = heads.to_tokens(ctx, kForward, split.to_rank_order(ctx, o_ShV));
    Tensor o_THV = heads.collect(ctx, o.arrive(), split.num_heads(), whole.v_THV.dim(2));
    std::unique_ptr<LinearNode> node;
    if (is_recording(ctx, input))
      node = std::make_unique<LinearUlyssesNode>(std::move(whole), plan, std::move(split), kernel);
    return record(ctx, "linear_ulysses", std::move(o_THV), std::move(node), input);
  }

 private:
  Group sp_;
};

}  // namespace

std::unique_ptr<LinearSchedule> make_linear_ulysses(Group sp) {
  return std::make_unique<LinearUlysses>(std::move(sp));
}

}  // namespace longship
