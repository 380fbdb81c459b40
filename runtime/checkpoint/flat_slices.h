// A run of elements of a flattened tensor, as slices of that tensor.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/checkpoint/checkpoint_writer.h"

namespace longship {

// `piece` has the name of a tensor of shape `global_shape` and, flat, its elements in row-major
// order from `first_element` on. The slices are views of it, as few as can be: at most twice the
// dimensions less one.
std::vector<NamedSlice> flat_slices(const NamedTensor& piece, int64_t first_element,
                                    const Shape& global_shape);

}  // namespace longship
