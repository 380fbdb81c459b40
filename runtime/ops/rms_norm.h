// y = x * rsqrt(mean(x^2) + eps) * weight over the last dimension: over E for x [T, E], or per head
// for x [T, H, D] with weight [D]. Statistics in fp32 (fp64). Zhang & Sennrich 2019.
// Backward: dx in x's dtype, dweight accumulated in fp32 in a fixed order.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable rms_norm(Context& ctx, const Variable& x, const Variable& weight, double eps);

}  // namespace longship
