// into += from, element by element, in place and outside the tape: where partial gradients of the
// same tensor meet.
#pragma once

#include "runtime/context.h"

namespace longship {

// Same shape [N, ...]; `into` in fp32 or fp64, `from` in a dtype whose accumulator that is. `from`
// is contiguous; `into` may be a slice of dim 1, so that only its rows need to be contiguous.
void accumulate(const Context& ctx, const Tensor& into, const Tensor& from);

}  // namespace longship
