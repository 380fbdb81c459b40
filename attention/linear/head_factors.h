// Products with one number a head, as Mamba-2 has them (Dao & Gu 2024, arXiv 2405.21060).
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

// y[t, h, v] = x[t, h, v] dt[t, h]: what a step of size dt writes. x [T, H, V], y in its dtype; dt
// [T, H] in the accumulator dtype, as its gradient.
Variable stepped(Context& ctx, const Variable& x_THV, const Variable& dt_TH);

// y[t, h, v] = o[t, h, v] + d[h] x[t, h, v]: the skip connection around the state. o and x [T, H,
// V] and y of one dtype; d [H] in the accumulator dtype, its gradient summed over tokens in a fixed
// order.
Variable head_skip(Context& ctx, const Variable& o_THV, const Variable& x_THV, const Variable& d_H);

}  // namespace longship
