// The rotary angles of a batch, computed once and shared by all layers that turn alike: in the
// forward, in recomputation, and as what the tape saves.
#pragma once

#include <memory>
#include <vector>

#include "parallel/sequence_plan.h"
#include "runtime/ops/rope.h"

namespace longship {

class SharedRopeAngles {
 public:
  // The angles of the local tokens of `plan`, as rope_angles() gives them. Those of the latest
  // segments are kept, as long-lived ones; a plan with others replaces them. Not for concurrent
  // calls.
  RopeAngles get(const Context& ctx, const SequencePlan& plan, int64_t rotary_dim, double theta,
                 DType dtype);

 private:
  struct Entry {
    int64_t rotary_dim;
    double theta;
    DType dtype;
    std::shared_ptr<const RopeAngles> angles;
  };
  std::vector<Segment> segments_;
  std::vector<Entry> entries_;
};

}  // namespace longship
