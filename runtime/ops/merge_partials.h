// Merges attention over one set of keys into attention over another set of keys, in place:
//
//   lse' = max + log1p(exp(min - max)),   o' = o exp(lse - lse') + part exp(lse_part - lse')
//
// o, part [T, H, V]; lse [T, H] natural log; all in the accumulator dtype (fp32, fp64). A side that
// saw no key (lse = -inf) contributes nothing; two such sides leave lse = -inf, o = 0.
#pragma once

#include "runtime/context.h"

namespace longship {

void merge_partials(const Context& ctx, const Tensor& o_THV, const Tensor& lse_TH,
                    const Tensor& part_THV, const Tensor& part_lse_TH);

}  // namespace longship
