// Activation checkpointing: keep a block's input and what is dear to compute, and run the block
// again in the backward.
#pragma once

#include <functional>

#include "runtime/autograd/kept_outputs.h"
#include "runtime/autograd/tape.h"

namespace longship {

using BlockFunction = std::function<Variable(Context&, const Variable&)>;

// y = block(x); the backward runs `block` again with a tape of its own, in which the ops that
// `level` keeps do not compute again, nor does a matrix product whose output is y (kNone: block(x)
// is recorded as it is). The block must be a
// pure function of x and of parameters (it may communicate: every rank repeats the same collectives
// in the same order). Chen et al. 2016, arXiv 1604.06174; keeping attention: Korthikanti et al.
// 2022, arXiv 2205.05198, the other way round, as long sequences make attention the dearest op.
Variable recompute(Context& ctx, const BlockFunction& block, const Variable& x,
                   Recompute level = Recompute::kBlock);

}  // namespace longship
