// Linear attention on whole sequences, by heads (Ulysses, arXiv 2309.14509).
//
// Names: T tokens of this rank, S of all ranks; G key heads and H state heads in all, g and h those
// of this rank in a group.
#include <utility>

#include "attention/linear/head_group.h"
#include "attention/linear/linear_node.h"
#include "attention/linear/linear_problem.h"
#include "parallel/attention_shape.h"

namespace longship {
namespace {

constexpr const char* kForward = "ulysses.fwd";
constexpr const char* kBackward = "ulysses.bwd";

// x [T, H] as [T, H, 1].
Tensor with_head_size(const Tensor& x) {
  return x.rank() == 3 ? x : x.reshape({x.dim(0), x.dim(1), 1});
}

// The states of whole documents: none.
Tensor no_states(const Context& ctx, const LinearInput& whole) {
  return ctx.empty({0, whole.v_THV.dim(1), whole.q_TGK.dim(2), whole.v_THV.dim(2)},
                   accumulator_dtype(whole.v_THV.dtype()));
}

// The inputs of a group on their way to whole sequences.
class InputTransfer {
 public:
  InputTransfer(const Context& ctx, const HeadGroup& group, const LinearInput& local)
      : heads_(group.route().mine.query),
        scale_(local.scale),
        gate_rank_(local.gate.defined() ? local.gate.rank() : 0),
        transfer_(group.route().group()) {
    const HeadExchange &key = group.route().kv, &query = group.route().query;
    q_ = transfer_.to_heads(ctx, key, local.q_TGK);
    k_ = transfer_.to_heads(ctx, key, local.k_TGK);
    v_ = transfer_.to_heads(ctx, query, local.v_THV);
    if (gate_rank_ > 1)
      gate_ = transfer_.to_heads(ctx, query, with_head_size(local.gate));
    else if (gate_rank_ == 1)
      constant_gate_H_ = local.gate.slice(0, heads_.begin, heads_.count).contiguous();
    if (local.beta_TH.defined())
      beta_ = transfer_.to_heads(ctx, query, with_head_size(local.beta_TH));
    transfer_.depart(kForward);
  }

  // All tokens in batch order, this rank's heads of the group.
  LinearInput arrive() {
    transfer_.wait();
    LinearInput whole{.q_TGK = std::move(q_),
                      .k_TGK = std::move(k_),
                      .v_THV = std::move(v_),
                      .gate = gate_.defined() ? std::move(gate_) : constant_gate_H_,
                      .beta_TH = {},
                      .scale = scale_};
    const int64_t S = whole.v_THV.dim(0);
    if (gate_rank_ == 2) whole.gate = whole.gate.reshape({S, heads_.count});
    if (beta_.defined()) whole.beta_TH = beta_.reshape({S, heads_.count});
    return whole;
  }

 private:
  HeadRange heads_;
  double scale_;
  int gate_rank_;  // 0: no gate
  HeadTransfer transfer_;
  Tensor q_, k_, v_, gate_, beta_, constant_gate_H_;
};

// Sends the gradients of a group into those of all heads of the local tokens, `local`, whose dtypes
// travel. Keys' gradients are summed before they are rounded.
HeadTransfer send_home(const Context& ctx, const HeadGroup& group, const LinearGradients& whole,
                       const LinearGradients& local) {
  const HeadExchange &key = group.route().kv, &query = group.route().query;
  HeadTransfer transfer(group.route().group());
  auto leave = [&](const HeadExchange& heads, const Tensor& dx, const Tensor& into) {
    if (!dx.defined()) return;
    transfer.to_tokens(ctx, heads, with_head_size(dx).to(into.dtype()), with_head_size(into));
  };
  leave(key, whole.dq_TGK, local.dq_TGK);
  leave(key, whole.dk_TGK, local.dk_TGK);
  leave(query, whole.dv_THV, local.dv_THV);
  leave(query, whole.dgate, local.dgate);
  leave(query, whole.dbeta_TH, local.dbeta_TH);
  transfer.depart(kBackward);
  return transfer;
}

class LinearUlyssesNode final : public LinearNode {
 public:
  struct Saved {
    std::vector<LinearInput> whole;  // by group, as they arrived
    std::vector<HeadGroup> groups;
    SequencePlan whole_plan;  // of all tokens, in batch order
    int64_t num_key_heads, num_heads;
  };

  LinearUlyssesNode(Saved kept, const SequencePlan& of_tokens, const LinearKernel& of_call)
      : LinearNode(of_tokens, of_call), saved_(std::move(kept)) {}

  const char* name() const override { return "linear_ulysses"; }

  void visit_saved(const SavedVisitor& visit) override {
    for (LinearInput& whole : saved_.whole) visit_input(visit, whole);
  }

  void backward(Context& ctx) override {
    const std::vector<HeadGroup>& groups = saved_.groups;
    const Tensor do_THV = grad_output(ctx).contiguous();
    HeadTransfer arriving(groups[0].route().group());
    auto start = [&](size_t i) {
      const Tensor do_ShV = arriving.to_heads(ctx, groups[i].route().query, do_THV);
      arriving.depart(kBackward);
      return do_ShV;
    };
    Tensor next = start(0);
    LinearGradients local;
    std::vector<HeadTransfer> homeward;
    for (size_t i = 0; i < groups.size(); ++i) {
      arriving.wait();
      const Tensor do_ShV = std::move(next);
      if (i + 1 < groups.size()) next = start(i + 1);
      const LinearInput& whole = saved_.whole[i];
      const LinearGradients gradients = groups[i].is_idle()
                                            ? no_gradients(ctx, whole)
                                            : gradients_of(ctx, groups[i], whole, do_ShV);
      if (i == 0) local = room(ctx);
      homeward.push_back(send_home(ctx, groups[i], gradients, local));
    }
    for (HeadTransfer& transfer : homeward) transfer.arrive(ctx);
    add(ctx, std::move(local));
  }

 private:
  LinearGradients gradients_of(Context& ctx, const HeadGroup& group, const LinearInput& whole,
                               const Tensor& do_ShV) const {
    const LinearInput input = group.as_kernel_takes(ctx, whole);
    const Tensor states_NHKV = no_states(ctx, input);
    const auto phases =
        kernel.backward(ctx, input, saved_.whole_plan.local_segments(), {}, states_NHKV, do_ShV);
    phases->intra(ctx);
    LinearGradients gradients = phases->gradients(ctx, states_NHKV);
    group.join_copies(ctx, gradients);
    return gradients;
  }

  // Of no heads: a rank beyond them has its tokens' gradients to receive all the same.
  LinearGradients no_gradients(const Context& ctx, const LinearInput& whole) const {
    const DType sums = accumulator_dtype(whole.v_THV.dtype());
    auto like = [&](const Tensor& x) {
      return x.defined() && x.rank() > 1 ? ctx.empty(x.shape(), sums) : Tensor();
    };
    return {.dq_TGK = like(whole.q_TGK),
            .dk_TGK = like(whole.k_TGK),
            .dv_THV = like(whole.v_THV),
            .dgate = like(whole.gate),
            .dbeta_TH = like(whole.beta_TH)};
  }

  // For all heads of the local tokens, in the dtypes that travel.
  LinearGradients room(const Context& ctx) const {
    const LinearInput& whole = saved_.whole[0];
    const int64_t T = plan.num_local_tokens(), G = saved_.num_key_heads, H = saved_.num_heads;
    const DType dtype = whole.v_THV.dtype(), sums = accumulator_dtype(dtype);
    const Shape keys = {T, G, whole.q_TGK.dim(2)};
    auto keys_room = [&] {
      return saved_.groups[0].route().kv.is_shared() ? ctx.zeros(keys, sums)
                                                     : ctx.empty(keys, dtype);
    };
    LinearGradients local{.dq_TGK = keys_room(),
                          .dk_TGK = keys_room(),
                          .dv_THV = ctx.empty({T, H, whole.v_THV.dim(2)}, dtype),
                          .dgate = {},
                          .dbeta_TH = {}};
    if (whole.gate.defined() && whole.gate.rank() > 1) {
      Shape shape = whole.gate.shape();
      shape[0] = T;
      shape[1] = H;
      local.dgate = ctx.empty(std::move(shape), sums);
    }
    if (whole.beta_TH.defined()) local.dbeta_TH = ctx.empty({T, H}, sums);
    return local;
  }

  Saved saved_;
};

Tensor outputs_of(Context& ctx, const LinearKernel& kernel, const HeadGroup& group,
                  const SequencePlan& whole_plan, const LinearInput& whole) {
  if (group.is_idle()) return ctx.empty(whole.v_THV.shape(), whole.v_THV.dtype());
  const LinearInput taken = group.as_kernel_takes(ctx, whole);
  const auto phases = kernel.forward(ctx, taken, whole_plan.local_segments(), {});
  phases->intra(ctx);
  return phases->outputs(ctx, no_states(ctx, taken));
}

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
    const bool recording = is_recording(ctx, input);
    const int64_t G = local.q_TGK.dim(1), H = local.v_THV.dim(1);
    LinearUlyssesNode::Saved kept{.whole = {},
                                  .groups = make_head_groups(sp_, plan, G, H),
                                  .whole_plan = plan.coarsened(sp_.size()),
                                  .num_key_heads = G,
                                  .num_heads = H};
    const std::vector<HeadGroup>& groups = kept.groups;
    InputTransfer next(ctx, groups[0], local);
    HeadTransfer homeward(sp_);
    Tensor o_THV;
    for (size_t i = 0; i < groups.size(); ++i) {
      LinearInput whole = next.arrive();
      if (i + 1 < groups.size()) next = InputTransfer(ctx, groups[i + 1], local);
      const Tensor o_ShV = outputs_of(ctx, kernel, groups[i], kept.whole_plan, whole);
      if (i == 0) o_THV = ctx.empty(local.v_THV.shape(), local.v_THV.dtype());
      homeward.to_tokens(ctx, groups[i].route().query, o_ShV, o_THV);
      homeward.depart(kForward);
      if (recording) kept.whole.push_back(std::move(whole));
    }
    homeward.wait();
    std::unique_ptr<LinearNode> node;
    if (recording) node = std::make_unique<LinearUlyssesNode>(std::move(kept), plan, kernel);
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
