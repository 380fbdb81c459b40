// "zeco": All-Scan on a thread of its own.
#include <future>

#include "parallel/affine_compose.h"
#include "parallel/attention_shape.h"
#include "parallel/state_chain.h"
#include "parallel/state_schedule.h"

namespace longship {
namespace {

// Held by the states on their way, so that a schedule sees whether there are any.
using Lease = std::shared_ptr<const bool>;

StateChain::Leave composing(AffineSummary summary, ScanDirection direction) {
  return [summary = std::move(summary), direction](const Context& ctx, int64_t row,
                                                   int64_t first_column, const Tensor& in_HKV,
                                                   const Tensor& out_HKV) {
    AffineMap map = map_of(summary, row);
    map.b_HKV = map.b_HKV.slice(2, first_column, out_HKV.dim(2));
    apply(ctx, map, direction, in_HKV, out_HKV);
  };
}

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

  std::unique_ptr<PendingStates> carry(Context& ctx, SegmentMaps& maps, const SequencePlan& plan,
                                       ScanDirection direction) const override {
    check_plan_matches(plan, scan_group_);
    LONGSHIP_CHECK(in_flight_.expired(), "zeco: the states of an earlier call are on their way");
    // The other cores are the caller's.
    Context scan_ctx = ctx;
    scan_ctx.num_threads = 1;
    const bool forward = direction == ScanDirection::kForward;
    StateChain chain(scan_ctx, scan_group_, plan,
                     {.label = forward ? "zeco.fwd" : "zeco.bwd",
                      .direction = direction,
                      .zero_states_NHKV = maps.zero_states(ctx),
                      .leave = composing(checked_summary(maps.summary(ctx), plan), direction),
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
