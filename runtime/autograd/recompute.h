// Activation checkpointing: keep a block's input only, and run the block again in the backward.
#pragma once

#include <functional>

#include "runtime/autograd/tape.h"

namespace longship {

using BlockFunction = std::function<Variable(Context&, const Variable&)>;

// y = block(x) without saving anything inside; the backward runs `block` again with a tape of its
// own. The block must be a pure function of x and of parameters (it may communicate: every rank
// repeats the same collectives in the same order). Chen et al. 2016, arXiv 1604.06174.
Variable recompute(Context& ctx, const BlockFunction& block, const Variable& x);

}  // namespace longship
