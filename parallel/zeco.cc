// "zeco": All-Scan on a thread of its own.
#include <future>

#include "parallel/attention_shape.h"
#include "parallel/state_chain.h"
#include "parallel/state_schedule.h"

namespace longship {
namespace {

// Held by the states on their way, so that a schedule sees whether there are any.
using Lease = std::shared_ptr<const bool>;

class ZecoStates final : public PendingStates {
 public:
  ZecoStates(StateChain chain, Lease lease)
      : chain_(std::move(chain)),
        lease_(std::move(lease)),
        states_(std::async(chain_.num_rounds() > 0 ? std::launch::async : std::launch::deferred,
                           [this] {
                             chain_.start();
                             return chain_.finish();
                           })) {}

  Tensor wait() override {
    Tensor states_NHKV = states_.get();
    lease_.reset();
    return states_NHKV;
  }

 private:
  StateChain chain_;
  Lease lease_;
  std::future<Tensor> states_;  // the first to go: its destructor waits for the thread
};

class Zeco final : public StateSchedule {
 public:
  Zeco(Group scan_group, ZecoOptions options)
      : scan_group_(std::move(scan_group)), options_(options) {}

  std::unique_ptr<PendingStates> carry(Context& ctx, const AffineSummary& summary,
                                       const SequencePlan& plan,
                                       ScanDirection direction) const override {
    check_plan_matches(plan, scan_group_);
    LONGSHIP_CHECK(in_flight_.expired(), "zeco: the states of an earlier call are on their way");
    // The other cores are the caller's.
    Context scan_ctx = ctx;
    scan_ctx.num_threads = 1;
    const bool forward = direction == ScanDirection::kForward;
    StateChain chain(scan_ctx, scan_group_, plan,
                     {.label = forward ? "zeco.fwd" : "zeco.bwd",
                      .summary = summary,
                      .direction = direction,
                      .num_blocks = options_.num_blocks});
    auto lease = std::make_shared<const bool>(true);
    in_flight_ = lease;
    return std::make_unique<ZecoStates>(std::move(chain), std::move(lease));
  }

 private:
  Group scan_group_;
  ZecoOptions options_;
  mutable std::weak_ptr<const bool> in_flight_;
};

}  // namespace

std::unique_ptr<StateSchedule> make_zeco(const Group& sp, ZecoOptions options) {
  if (options.num_blocks <= 0)
    throw Error(ErrorCode::kConfig, {.what = "number of state blocks of zeco",
                                     .expected = "a positive number",
                                     .found = std::to_string(options.num_blocks),
                                     .next = "8 is a good choice; 1 makes the chain of lasp"});
  return std::make_unique<Zeco>(sp.split(0, sp.rank()), options);
}

}  // namespace longship
