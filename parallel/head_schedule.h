// What schedules have in common that bring whole heads together before attention: ulysses and usp.
// All-to-alls among adjacent ranks turn "my tokens, all heads" into "the group's tokens, my heads",
// passes between such groups compute attention on them, and the output goes back the same way.
// Tokens of a group lie in batch order there, as SequencePlan::coarsened() describes them: what a
// layout has torn apart is one run again, for which kernels are fastest.
//
// Heads travel and are computed in groups of whole KV heads, in_groups() of head_exchange.h: while
// one is computed, the next one's q, k and v are on their way and the output of the one before goes
// home; so do do, and dq, dk and dv, in the backward. What is exposed is the way of the first group
// in and of the last one out, and of that what attend_when_ready() does not hide: q and k of the
// first group travel while k and v are projected, and the last dq comes home while others use dk
// and dv. Neither bytes nor, on CPUs, bits depend on the groups.
//
// A block that runs again in the backward sends its kept output home at once, and waits for nothing
// but that: q, k and v travel meanwhile and are waited for when the backward comes to attention. It
// computes nothing twice, but sends what the forward sent once more: tensors of both ways of
// sharing would take more memory than the rest of what such a block keeps.
#pragma once

#include <memory>

#include "parallel/head_exchange.h"
#include "parallel/resident_schedule.h"

namespace longship {

// How the ranks share a call: `heads` is this rank's group of adjacent ranks, among which heads are
// dealt; `passes` computes on the plan coarsened to such groups, for the heads of this rank.
struct HeadGrid {
  Group heads;
  std::shared_ptr<const ResidentPasses> passes;
};

// attend() as one tape node that saves q, k, v, o and lse of the heads of this rank.
class HeadSchedule : public SoftmaxSchedule {
 public:
  // `max_groups` of heads; 0: as many as pay, by sizes.
  HeadSchedule(const char* name, Group sp, int64_t max_groups);

  Variable attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD, const Variable& v_TKV,
                  const SequencePlan& plan, const AttentionOptions& options) const final;
  Variable attend_when_ready(Context& ctx, const AttentionSources& sources,
                             const SequencePlan& plan, const AttentionOptions& options) const final;

 protected:
  const char* name() const { return name_; }
  const Group& sp() const { return sp_; }

  // The same on every rank for the same heads. The size of its `heads` divides that of sp().
  virtual const HeadGrid& grid(const AttentionShape& shape) const = 0;

 private:
  enum class Departure { kTogether, kWhenReady };  // of the first group's q, k and v
  Variable attend(Context& ctx, const AttentionSources& sources, const SequencePlan& plan,
                  const AttentionOptions& options, Departure departure) const;
  std::vector<std::vector<HeadShare>> groups_of(const AttentionShape& shape, const HeadGrid& grid,
                                                const SequencePlan& plan, const MaskRule& rule,
                                                DeviceKind device) const;

  const char* name_;
  Group sp_;
  int64_t max_groups_;
};

}  // namespace longship
