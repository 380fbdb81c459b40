// y = x * rsqrt(mean(x^2) + eps) * weight over the last dimension: over E for x [T, E], or per head
// for x [T, H, D] with weight [D]. Statistics in fp32 (fp64). Zhang & Sennrich 2019. Zero-centered
// (Qwen3-Next): times 1 + weight, added up in fp32 (fp64) too.
// Backward: dx in x's dtype, dweight accumulated in fp32 in a fixed order. What x has as gradient
// already, by the residual connection around a block, is added to dx before that is rounded.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable rms_norm(Context& ctx, const Variable& x, const Variable& weight, double eps,
                  bool zero_centered = false);

}  // namespace longship
