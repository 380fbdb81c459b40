// The arithmetic of carried states: S_out = M S_in + B for one segment, on any columns of it.
//
// Shapes: H state heads, K key size, V value size or some of its columns.
#pragma once

#include "parallel/affine_state.h"

namespace longship {

// The map of one segment. `m` is contiguous: undefined, [H], [H, K] or [H, K, K] by `transition`.
struct AffineMap {
  Transition transition = Transition::kIdentity;
  Tensor m;
  Tensor b_HKV;  // rows may lie apart, elements of a row may not
};

// `summary` with contiguous tensors. Throws Error(kInternal) unless it holds one map for each cut
// segment of this rank, shaped as AffineSummary says, in fp32 or fp64.
AffineSummary checked_summary(const AffineSummary& summary, const SequencePlan& plan);

// Row `index` of a checked summary, as views.
AffineMap map_of(const AffineSummary& summary, int64_t index);

// out = M in + B (forward) or M^T in + B (backward), overwriting `out`, which must not overlap the
// others. An undefined `in` is the zero state: out = B, and M is not read. An element is summed as
// B first, then over keys in ascending order, whatever columns `in`, `out` and b_HKV hold.
void apply(const Context& ctx, const AffineMap& map, ScanDirection direction, const Tensor& in_HKV,
           const Tensor& out_HKV);

}  // namespace longship
