// Features of a projection that serve several purposes, taken apart and put together again: x of
// any rank, along its last dimension.
#pragma once

#include <span>
#include <vector>

#include "runtime/autograd/tape.h"

namespace longship {

// The parts of x of these sizes (each >= 0), in order, as packed copies. They must add up to
// x.dim(-1).
std::vector<Variable> split(Context& ctx, const Variable& x, std::span<const int64_t> sizes);

// The inverse: parts alike in dtype and in all dimensions but the last; at least one.
Variable join(Context& ctx, const std::vector<Variable>& parts);

}  // namespace longship
