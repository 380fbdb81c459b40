// Linear attention whose states are carried from rank to rank.
#include "attention/linear/linear_node.h"
#include "parallel/cut_segments.h"

namespace longship {
namespace {

// Runs the phases of a forward or backward around the states' journey.
template <class Phases>
Tensor carry_states(Context& ctx, Phases& phases, const StateSchedule& schedule,
                    const SequencePlan& plan, ScanDirection direction) {
  const auto pending = schedule.carry(ctx, phases, plan, direction);
  phases.intra(ctx);
  return pending->wait();
}

class LinearCarryNode final : public LinearNode {
 public:
  struct Saved {
    LinearInput input;
    Tensor states_NHKV;  // S_in of each cut segment
  };

  LinearCarryNode(Saved kept, const SequencePlan& of_tokens, const LinearKernel& of_call,
                  const StateSchedule& schedule)
      : LinearNode(of_tokens, of_call), saved_(std::move(kept)), schedule_(schedule) {}

  const char* name() const override { return "linear_carry"; }

  void backward(Context& ctx) override {
    const auto phases =
        kernel.backward(ctx, saved_.input, plan.local_segments(), cut_segments(plan, plan.rank()),
                        saved_.states_NHKV, grad_output(ctx).contiguous());
    const Tensor grad_states_NHKV =
        carry_states(ctx, *phases, schedule_, plan, ScanDirection::kBackward);
    add(ctx, phases->gradients(ctx, grad_states_NHKV));
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit_input(visit, saved_.input);
    visit("states_NHKV", saved_.states_NHKV);
  }

 private:
  Saved saved_;
  const StateSchedule& schedule_;
};

class LinearCarry final : public LinearSchedule {
 public:
  explicit LinearCarry(std::unique_ptr<const StateSchedule> states) : states_(std::move(states)) {}

  Variable attend(Context& ctx, const LinearKernel& kernel, const LinearAttentionInput& input,
                  const SequencePlan& plan) const override {
    LinearInput local = packed(input);
    const auto phases =
        kernel.forward(ctx, local, plan.local_segments(), cut_segments(plan, plan.rank()));
    Tensor states_NHKV = carry_states(ctx, *phases, *states_, plan, ScanDirection::kForward);
    Tensor o_THV = phases->outputs(ctx, states_NHKV);
    std::unique_ptr<LinearNode> node;
    if (is_recording(ctx, input))
      node = std::make_unique<LinearCarryNode>(
          LinearCarryNode::Saved{std::move(local), std::move(states_NHKV)}, plan, kernel, *states_);
    return record(ctx, "linear_carry", std::move(o_THV), std::move(node), input);
  }

 private:
  std::unique_ptr<const StateSchedule> states_;
};

}  // namespace

std::unique_ptr<LinearSchedule> make_linear_carry(std::unique_ptr<const StateSchedule> states) {
  return std::make_unique<LinearCarry>(std::move(states));
}

}  // namespace longship
