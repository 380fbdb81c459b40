// What the ranks of a plan hold together, put in the order of the batch.
#pragma once

#include <vector>

#include "parallel/group.h"
#include "parallel/sequence_plan.h"

namespace longship::testing {

// The segments of the whole batch, in batch order, as rows of the tensor that holds every rank's
// tokens in (rank, slot) order: what all-gather delivers. `slot` is that row.
std::vector<Segment> gathered_segments(const SequencePlan& plan);

// The inverse of plan.shard() for such a tensor: its rows in batch order.
Tensor unshard(const Context& ctx, const SequencePlan& plan, const Tensor& by_rank);

// The whole batch of tensors of local tokens; collective.
Tensor gather(const Context& ctx, const Group& sp, const SequencePlan& plan, const Tensor& local);

// Tokens whose rows in `after` differ from those in `before`, in any bit.
std::vector<int64_t> changed_tokens(const Tensor& before, const Tensor& after);

// first, first + 1, ..., end - 1.
std::vector<int64_t> token_range(int64_t first, int64_t end);

}  // namespace longship::testing
