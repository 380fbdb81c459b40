// y = factor * x, same shape and dtype: the multipliers of a mixer's input and output.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable scale(Context& ctx, const Variable& x, double factor);

}  // namespace longship
