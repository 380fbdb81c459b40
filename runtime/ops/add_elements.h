// sum = a + b, element by element, outside the tape: what the op `add` and the sums of gradients
// share.
#pragma once

#include "runtime/context.h"

namespace longship {

// Packed tensors of one shape and floating dtype, added in fp32 (fp64). `sum` may be a or b.
void add_elements(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& sum);

}  // namespace longship
