// Differentiable views: same elements, another shape.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable reshape(Context& ctx, const Variable& x, Shape shape);

}  // namespace longship
