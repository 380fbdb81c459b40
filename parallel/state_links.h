// Where states have to go: the hand-overs between the segments of every document of a plan.
#pragma once

#include <vector>

#include "parallel/affine_state.h"

namespace longship {

// The state that one segment leaves for the next one of its document. Neighbouring segments are on
// different ranks (a rank joins its own), so every link is a message.
struct StateLink {
  int from_rank = 0;
  int64_t from = 0;  // row among the cut segments of from_rank
  int to_rank = 0;
  int64_t to = 0;     // row among those of to_rank
  int64_t depth = 0;  // links of the same document before this one; at 0 the state starts as zero

  bool operator==(const StateLink&) const = default;
};

// The links of the whole batch, the same on every rank, in the order in which states travel:
// ascending by position in the batch, or descending for kBackward.
std::vector<StateLink> state_links(const SequencePlan& plan, ScanDirection direction);

}  // namespace longship
