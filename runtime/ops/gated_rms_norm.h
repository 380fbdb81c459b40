// RMSNorm times a gate, as linear-attention layers end (Dao & Gu 2024, arXiv 2405.21060):
//
//   norm before gate   y = norm(x) * weight * act(z)         Qwen3-Next, Kimi Linear
//   gate before norm   y = norm(x * act(z)) * weight         Mamba-2
//
// norm(u) = u * rsqrt(mean(u^2) + eps) over groups of consecutive features of the last dimension.
// Statistics in fp32 (fp64). Backward: dx and dz in their dtype, dweight accumulated in fp32 in a
// fixed order.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

enum class GateActivation { kSilu, kSigmoid };

struct GatedRmsNormOptions {
  double eps = 1e-5;
  GateActivation activation = GateActivation::kSilu;
  bool norm_before_gate = true;
  int64_t group_size = 0;  // features normed together, divides F; 0 = all F
};

// x and z [..., F] and weight [F], of one dtype.
Variable gated_rms_norm(Context& ctx, const Variable& x, const Variable& z, const Variable& weight,
                        const GatedRmsNormOptions& options);

}  // namespace longship
