// "lasp", and the case of one rank.
#include "parallel/attention_shape.h"
#include "parallel/state_chain.h"
#include "parallel/state_schedule.h"

namespace longship {
namespace {

class LaspStates final : public PendingStates {
 public:
  explicit LaspStates(StateChain chain) : chain_(std::move(chain)) { chain_.start(); }
  Tensor wait() override { return chain_.finish(); }

 private:
  StateChain chain_;
};

class Lasp final : public StateSchedule {
 public:
  explicit Lasp(Group sp) : sp_(std::move(sp)) {}

  std::unique_ptr<PendingStates> carry(Context& ctx, SegmentMaps& maps, const SequencePlan& plan,
                                       ScanDirection direction) const override {
    check_plan_matches(plan, sp_);
    const bool forward = direction == ScanDirection::kForward;
    return std::make_unique<LaspStates>(StateChain(
        ctx, sp_, plan,
        {.label = forward ? "lasp.fwd" : "lasp.bwd",
         .direction = direction,
         .zero_states_NHKV = maps.zero_states(ctx),
         .leave = [&maps](const Context& chain_ctx, int64_t row, int64_t, const Tensor& in_HKV,
                          const Tensor& out_HKV) { maps.walk(chain_ctx, row, in_HKV, out_HKV); }}));
  }

 private:
  Group sp_;
};

}  // namespace

std::unique_ptr<StateSchedule> make_lasp(Group sp) {
  return std::make_unique<Lasp>(std::move(sp));
}

std::unique_ptr<StateSchedule> make_local_states() {
  return make_lasp(Group::self());
}

}  // namespace longship
