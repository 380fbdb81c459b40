// y[t] = table[ids[t]]: table [V, E], ids [T] i32, y [T, E]. An id outside [0, V) throws
// Error(kCorrupt) naming token and place; on a GPU, whose host does not wait to see, its row
// becomes NaN. Backward: dtable accumulated in fp32 (fp64); tokens are sorted by id first (on a GPU
// beside the forward) and summed in their order, so that the result does not depend on threads.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable embedding(Context& ctx, const Variable& table_VE, const Tensor& ids_T);

}  // namespace longship
