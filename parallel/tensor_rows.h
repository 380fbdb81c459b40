// Tensors about the same tokens, which are the rows (dim 0) of each: k with v, o with lse, .. They
// are cut, sent and added together.
#pragma once

#include <span>
#include <vector>

#include "parallel/group.h"
#include "parallel/row_range.h"
#include "runtime/context.h"

namespace longship {

using TensorRows = std::vector<Tensor>;

TensorRows slice(const TensorRows& tensors, RowRange rows);

// Room for `num_rows` rows like those of `tensors`.
TensorRows empty_like(const Context& ctx, const TensorRows& tensors, int64_t num_rows);
// The same in other dtypes, one for each tensor; more of them are not looked at.
TensorRows empty_like(const Context& ctx, const TensorRows& tensors, int64_t num_rows,
                      std::span<const DType> dtypes);

// Adds one message for each tensor to a batch; none when there are no rows, as both sides know.
void add_send(std::vector<P2P>& batch, int peer, const TensorRows& tensors);
void add_receive(std::vector<P2P>& batch, int peer, const TensorRows& tensors);

// into += from; `into` in fp32 or fp64, `from` in a dtype whose accumulator that is.
void accumulate(const Context& ctx, const TensorRows& into, const TensorRows& from);

}  // namespace longship
