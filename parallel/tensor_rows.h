// Tensors about the same tokens, which are the rows (dim 0) of each: k with v, o with lse, .. They
// are cut, sent and added together.
#pragma once

#include <vector>

#include "parallel/group.h"
#include "parallel/row_range.h"
#include "runtime/context.h"

namespace longship {

using TensorRows = std::vector<Tensor>;

TensorRows slice(const TensorRows& tensors, RowRange rows);

// Room for `num_rows` rows like those of `tensors`.
TensorRows empty_like(const Context& ctx, const TensorRows& tensors, int64_t num_rows);
// Zeros in the shapes of `tensors`.
TensorRows zeros_like(const Context& ctx, const TensorRows& tensors, DType dtype);

// Adds one message for each tensor to a batch; none when there are no rows, as both sides know.
void add_send(std::vector<P2P>& batch, int peer, const TensorRows& tensors);
void add_receive(std::vector<P2P>& batch, int peer, const TensorRows& tensors);

// into += from; both fp32 or fp64.
void accumulate(const Context& ctx, const TensorRows& into, const TensorRows& from);

}  // namespace longship
