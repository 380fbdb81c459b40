// Linear attention whose states are carried from rank to rank.
#include "attention/linear/linear_schedule.h"
#include "parallel/cut_segments.h"

namespace longship {
namespace {

struct LinearCarryNode final : Node {
  struct Saved {
    LinearInput input;
    SequencePlan plan;
    Tensor states_NHKV;  // S_in of each cut segment
  } saved;
  const LinearKernel* kernel;
  const StateSchedule* schedule;

  LinearCarryNode(Saved kept, const LinearKernel& of_kernel, const StateSchedule& of_schedule)
      : saved(std::move(kept)), kernel(&of_kernel), schedule(&of_schedule) {}

  const char* name() const override { return "linear_carry"; }
  void backward(Context& ctx) override;
  void visit_saved(const SavedVisitor& visit) override {
    visit("q_TGK", saved.input.q_TGK);
    visit("k_TGK", saved.input.k_TGK);
    visit("v_THV", saved.input.v_THV);
    if (saved.input.gate.defined()) visit("gate", saved.input.gate);
    if (saved.input.beta_TH.defined()) visit("beta_TH", saved.input.beta_TH);
    visit("states_NHKV", saved.states_NHKV);
  }
};

// Runs the phases of a forward or backward around the states' journey. `Phases` has summary() and
// intra().
template <class Phases>
Tensor carry_states(Context& ctx, Phases& phases, const StateSchedule& schedule,
                    const SequencePlan& plan, ScanDirection direction) {
  const auto pending = schedule.carry(ctx, phases.summary(ctx), plan, direction);
  phases.intra(ctx);
  return pending->wait();
}

void LinearCarryNode::backward(Context& ctx) {
  const SequencePlan& plan = saved.plan;
  const std::vector<int64_t> cut = cut_segments(plan, plan.rank());
  const auto phases = kernel->backward(ctx, saved.input, plan.local_segments(), cut,
                                       saved.states_NHKV, grad_output(ctx).contiguous());
  const Tensor grad_states_NHKV =
      carry_states(ctx, *phases, *schedule, plan, ScanDirection::kBackward);
  LinearGradients gradients = phases->gradients(ctx, grad_states_NHKV);
  Tensor* const by_input[] = {&gradients.dq_TGK, &gradients.dk_TGK, &gradients.dv_THV,
                              &gradients.dgate, &gradients.dbeta_TH};
  for (size_t i = 0; i < num_inputs(); ++i)
    if (input(i) && by_input[i]->defined()) input(i)->add(ctx, std::move(*by_input[i]));
}

Tensor packed(const Variable& variable) {
  return variable.defined() ? variable.value().contiguous() : Tensor();
}

class LinearCarry final : public LinearSchedule {
 public:
  explicit LinearCarry(std::unique_ptr<const StateSchedule> states) : states_(std::move(states)) {}

  Variable attend(Context& ctx, const LinearKernel& kernel, const LinearAttentionInput& input,
                  const SequencePlan& plan) const override {
    const LinearInput local{.q_TGK = packed(input.q_TGK),
                            .k_TGK = packed(input.k_TGK),
                            .v_THV = packed(input.v_THV),
                            .gate = packed(input.gate),
                            .beta_TH = packed(input.beta_TH),
                            .scale = input.scale};
    LONGSHIP_CHECK(local.v_THV.dim(0) == plan.num_local_tokens(), "{} rows for {} local tokens",
                   local.v_THV.dim(0), plan.num_local_tokens());
    const std::vector<int64_t> cut = cut_segments(plan, plan.rank());
    const auto phases = kernel.forward(ctx, local, plan.local_segments(), cut);
    Tensor states_NHKV = carry_states(ctx, *phases, *states_, plan, ScanDirection::kForward);
    Tensor o_THV = phases->outputs(ctx, states_NHKV);

    std::unique_ptr<LinearCarryNode> node;
    if (is_recording(ctx,
                     {&input.q_TGK, &input.k_TGK, &input.v_THV, &input.gate, &input.beta_TH})) {
      node = std::make_unique<LinearCarryNode>(
          LinearCarryNode::Saved{local, plan, std::move(states_NHKV)}, kernel, *states_);
    }
    return record(ctx, "linear_carry", std::move(o_THV), std::move(node),
                  {&input.q_TGK, &input.k_TGK, &input.v_THV, &input.gate, &input.beta_TH});
  }

 private:
  std::unique_ptr<const StateSchedule> states_;
};

}  // namespace

std::unique_ptr<LinearSchedule> make_linear_carry(std::unique_ptr<const StateSchedule> states) {
  return std::make_unique<LinearCarry>(std::move(states));
}

}  // namespace longship
