// Writes one value to every element of a tensor, in place and outside the tape.
#pragma once

#include "runtime/context.h"

namespace longship {

// A contiguous tensor in a floating dtype; on a GPU in fp32 or bf16.
void fill(const Context& ctx, const Tensor& tensor, double value);

}  // namespace longship
