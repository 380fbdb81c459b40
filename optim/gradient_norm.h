// The size of the gradients, after they were summed over ranks.
#pragma once

#include <string>

#include "runtime/model/parameter.h"

namespace longship {

// The square of gradient_norm(), as a tensor of one element in fp64 on ctx's device. On a GPU the
// host does not wait for it: AdamW::step() can read it there.
Tensor squared_gradient_norm(const Context& ctx, const ParameterList& parameters);

// L2 norm over all gradients together. Squares are summed in fp64 in blocks of fixed length and
// the blocks in order, so every rank that holds the same gradients gets the same bits, with any
// number of threads; a GPU has an order of its own, which is fixed too. Parameters without gradient
// count as zero. Waits for the GPU.
double gradient_norm(const Context& ctx, const ParameterList& parameters);

// The first parameter whose gradient holds a NaN or infinity; empty if there is none.
std::string first_non_finite(const Context& ctx, const ParameterList& parameters);

// The factor that brings a gradient of this norm to at most `max_norm`: min(1, max_norm / norm).
// `max_norm` 0 means no clipping.
double clip_scale(double norm, double max_norm);

}  // namespace longship
