// Cut segments: those that hold a part of their document only. Documents that are whole on one rank
// need nothing of others, so halos and states concern these few: at most two a rank on the
// contiguous layout and four on zigzag, however many documents a batch has.
#pragma once

#include <vector>

#include "parallel/sequence_plan.h"

namespace longship {

struct CutSegment {
  int rank = 0;
  int64_t index = 0;  // in plan.segments(rank)
  int64_t row = 0;    // among the cut segments of that rank
  Segment segment;
};

// Those of all ranks, in batch order. Neighbours of one document are on different ranks, as a rank
// joins its own.
std::vector<CutSegment> cut_segments(const SequencePlan& plan);

// The indices in plan.segments(rank) of those of one rank, ascending.
std::vector<int64_t> cut_segments(const SequencePlan& plan, int rank);

}  // namespace longship
