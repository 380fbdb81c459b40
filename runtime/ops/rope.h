// Rotary position embedding for arbitrary positions (Su et al. 2021), in the "rotate half" form of
// Llama and Qwen: the pair (x[i], x[i + R/2]) turns by position * theta^(-2i/R), i < R/2.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

// cos and sin of every angle, [T, R/2] in `dtype` (fp32, or fp64 for fp64 models), for positions
// [T] i64 on the host and R = `rotary_dim`, even. Angles are reduced exactly, in two doubles: at
// position 10^8 the error is below 1e-10 before the values are rounded to `dtype`.
struct RopeAngles {
  Tensor cos_TR;
  Tensor sin_TR;
};
RopeAngles rope_angles(const Context& ctx, const Tensor& positions_T, int64_t rotary_dim,
                       double theta, DType dtype);

// x [T, H, D] with its features [first, first + R) rotated in fp32 (fp64), returned in x's dtype;
// the other features pass through. The backward is the rotation by the negative angle.
Variable rope(Context& ctx, const Variable& x_THD, const RopeAngles& angles, int64_t first = 0);

}  // namespace longship
