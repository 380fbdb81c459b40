// A place on the tape where others are told that the backward has come by.
#pragma once

#include <functional>

#include "runtime/autograd/tape.h"

namespace longship {

// x itself. When the backward passes here, `passed` is called: the gradients of everything that was
// recorded later, and is used nowhere earlier, are complete then. Recorded only where x has a
// gradient.
Variable backward_hook(Context& ctx, const Variable& x, std::function<void(Context&)> passed);

}  // namespace longship
