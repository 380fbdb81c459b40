// A mask as attention calls know it: rectangles whose diagonal, if any, ends in their corner.
#pragma once

#include <vector>

#include "attention/cuda/attention_call.h"
#include "parallel/document_mask.h"

namespace longship {

struct MaskRectangle {
  CallMask mask;
  CallEntry rows;

  bool operator==(const MaskRectangle&) const = default;
};

// The shape of rectangles that are not full.
enum class DiagonalShape {
  kAny,     // more keys than queries, as they come
  kSquare,  // as many keys as queries; earlier keys are rectangles of their own
};

// The pairs of `mask`, each in one rectangle. Queries that see nothing and keys that nobody sees
// are trimmed off; what is left has one of few masks, so that few kernels serve all plans: full,
// causal, the window of the rule (on both sides, if it is not causal), and left = 1, the end of a
// window over keys that lie before all of the queries. Rectangles that touch and whose union is
// again one of these are joined: of one document on the zigzag layout, the queries of the second
// chunk see the first chunk and their own as one causal rectangle.
std::vector<MaskRectangle> mask_rectangles(const BlockMask& mask, DiagonalShape shape);

}  // namespace longship
