// RMSNorm on the CPU, for every floating dtype. Contiguous tensors.
#pragma once

#include "runtime/context.h"

namespace longship {

struct RmsNormForward {
  Tensor x_RD, weight_D;
  double eps = 0;
  bool zero_centered = false;
  Tensor y_RD, rstd_R;  // filled
};
void rms_norm_forward_cpu(const Context& ctx, const RmsNormForward& op);

struct RmsNormBackward {
  Tensor x_RD, weight_D, rstd_R, dy_RD;
  Tensor dx_RD;     // filled; undefined: not wanted
  Tensor other_RD;  // added to dx, and may be its memory; undefined: nothing
  bool wants_dweight = true;
  bool zero_centered = false;
};
// Returns dweight [D] in fp64, zeros if it is not wanted. Both gradients come from one pass over x
// and dy, which are what limits the speed.
Tensor rms_norm_backward_cpu(const Context& ctx, const RmsNormBackward& op);

}  // namespace longship
