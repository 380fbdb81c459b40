// The same elements in another shape, of which one extent may be -1: a view, or a packed copy where
// x is not contiguous.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable reshape(Context& ctx, const Variable& x, Shape shape);

}  // namespace longship
