// How much of a score matrix a mask leaves to compute.
#pragma once

#include "parallel/document_mask.h"

namespace longship {

// The pairs of a query and a key that the mask lets through.
int64_t num_visible_pairs(const BlockMask& mask);

// Those of the whole batch of a plan, over all ranks. Its mask is made once for a plan and its
// copies: it is that of the local pass of ulysses.
int64_t num_visible_pairs(const SequencePlan& plan, const MaskRule& rule);

}  // namespace longship
