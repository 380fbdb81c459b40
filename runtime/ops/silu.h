// y = x sigmoid(x), elementwise, in x's dtype; computed in fp32 (fp64).
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable silu(Context& ctx, const Variable& x);

}  // namespace longship
