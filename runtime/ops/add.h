// y = a + b, same shape and dtype: the residual connection.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable add(Context& ctx, const Variable& a, const Variable& b);

}  // namespace longship
