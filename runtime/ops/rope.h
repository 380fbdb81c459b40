// Rotary position embedding for arbitrary positions (Su et al. 2021), in the "rotate half" form of
// Llama and Qwen: the pair (x[i], x[i + R/2]) turns by position * theta^(-2i/R), i < R/2.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

struct RopeOptions {
  double theta = 10000.0;
  int64_t rotary_dim = 0;  // R: leading features of a head that rotate, even; 0 = all of them
};

// cos and sin of every angle, [T, R/2] in `dtype` (fp32, or fp64 for fp64 models). Angles are
// computed and reduced in fp64, so position 10^6 and beyond keep full fp32 accuracy.
struct RopeAngles {
  Tensor cos_TR;
  Tensor sin_TR;
};
RopeAngles rope_angles(const Context& ctx, const Tensor& positions_T, int64_t rotary_dim,
                       double theta, DType dtype);

// x [T, H, D], rotated in fp32 (fp64), returned in x's dtype; features from R on pass through.
// The backward is the rotation by the negative angle.
Variable rope(Context& ctx, const Variable& x_THD, const RopeAngles& angles);

}  // namespace longship
