// delta[t, h] = sum_v o[t, h, v] * do[t, h, v]: the row sums that the backward of softmax attention
// subtracts (Dao et al. 2022, arXiv 2205.14135). They need the whole merged row, so schedules
// compute them once and hand them to every block.
#pragma once

#include "runtime/context.h"

namespace longship {

// o_THV and do_THV [T, H, V], contiguous, in any of fp32 and bf16, or both in fp64. Returns
// delta_TH in the accumulator dtype, summed in it in a fixed order.
Tensor softmax_delta(const Context& ctx, const Tensor& o_THV, const Tensor& do_THV);

}  // namespace longship
