// y = x * rsqrt(sum(x^2) + eps) over the last dimension, in x's dtype: queries and keys of length 1
// for the delta rule. Sums in fp32 (fp64).
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable l2_norm(Context& ctx, const Variable& x, double eps);

}  // namespace longship
