// How much of a score matrix a mask leaves to compute.
#pragma once

#include "parallel/document_mask.h"

namespace longship {

// The pairs of a query and a key that the mask lets through.
int64_t num_visible_pairs(const BlockMask& mask);

}  // namespace longship
