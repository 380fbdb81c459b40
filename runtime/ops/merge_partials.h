// Merges attention over one set of keys into attention over another set of keys:
//
//   lse' = max + log1p(exp(min - max)),   o' = o exp(lse - lse') + part exp(lse_part - lse')
//
// o, part [T, H, V]; lse [T, H] natural log, in the accumulator dtype (fp32, fp64). All contiguous.
// A side that saw no key (lse = -inf) contributes nothing; two such sides leave lse = -inf, o = 0.
#pragma once

#include "runtime/context.h"

namespace longship {

// Replaces o and lse by o' and lse'. o in the accumulator dtype; part in fp32 or bf16 (fp64).
void merge_partials(const Context& ctx, const Tensor& o_THV, const Tensor& lse_TH,
                    const Tensor& part_THV, const Tensor& part_lse_TH);

// The last merge of a row, which rounds in the same pass: o' goes to out_THV, lse' replaces lse, o
// stays as it is. o, part and out are each in fp32 or bf16 (all in fp64); out may be o itself.
void merge_partials_into(const Context& ctx, const Tensor& out_THV, const Tensor& o_THV,
                         const Tensor& lse_TH, const Tensor& part_THV, const Tensor& part_lse_TH);

}  // namespace longship
