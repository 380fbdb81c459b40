// The size of the gradients, after they were summed over ranks.
#pragma once

#include <string>

#include "parallel/group.h"
#include "runtime/model/parameter.h"

namespace longship {

// In all of these `sharers` are the ranks that share out the parameters, so that each holds pieces
// of the gradients; this rank alone, if it holds all. They are collective over `sharers`.

// The square of gradient_norm(), as a tensor of one element in fp64 on ctx's device. On a GPU the
// host does not wait for it: AdamW::step() can read it there.
Tensor squared_gradient_norm(const Context& ctx, const ParameterList& parameters,
                             const Group& sharers = Group::self());

// L2 norm over all gradients together. Squares are summed in fp64 in chunks of kPieceElements of
// each parameter and the chunks in order, so every rank gets the same bits, with any number of
// threads and sharers; a GPU has an order of its own, which is fixed too. Parameters without
// gradient count as zero. Waits for the GPU.
double gradient_norm(const Context& ctx, const ParameterList& parameters,
                     const Group& sharers = Group::self());

// The first parameter whose gradient holds a NaN or infinity; empty if there is none.
std::string first_non_finite(const Context& ctx, const ParameterList& parameters,
                             const Group& sharers = Group::self());

// The factor that brings a gradient of this norm to at most `max_norm`: min(1, max_norm / norm).
// `max_norm` 0 means no clipping.
double clip_scale(double norm, double max_norm);

}  // namespace longship
