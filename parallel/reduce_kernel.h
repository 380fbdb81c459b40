// Element-wise reduction of equal-sized arrays in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "parallel/group.h"

namespace longship {

// out[i] = ((sources[0][i] op sources[1][i]) op sources[2][i]) ...; `out` may be one of the
// sources. fp32, fp64, i32, i64. A NaN wins against any number in max and min; integer sums wrap
// around.
void reduce_in_order(ReduceOp op, DType dtype, std::byte* out,
                     std::span<const std::byte* const> sources, int64_t count);

}  // namespace longship
