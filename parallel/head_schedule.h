// What schedules have in common that bring whole heads together before attention: ulysses and usp.
// All-to-alls among adjacent ranks turn "my tokens, all heads" into "the group's tokens, my heads",
// passes between such groups compute attention on them, and the output goes back the same way. Rows
// lie in (rank, slot) order, as SequencePlan::coarsened() describes them.
//
// A block that runs again in the backward repeats the all-to-alls, but not the passes: tensors of
// both ways of sharing would take more memory than the rest of what such a block keeps.
#pragma once

#include <memory>

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
  HeadSchedule(const char* name, Group sp);

  Variable attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD, const Variable& v_TKV,
                  const SequencePlan& plan, const AttentionOptions& options) const final;

 protected:
  const char* name() const { return name_; }
  const Group& sp() const { return sp_; }

  // The same on every rank for the same heads. The size of its `heads` divides that of sp().
  virtual const HeadGrid& grid(const AttentionShape& shape) const = 0;

 private:
  const char* name_;
  Group sp_;
};

}  // namespace longship
