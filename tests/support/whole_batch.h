// What the ranks of a plan hold together, put in the order of the batch.
#pragma once

#include <vector>

#include "parallel/group.h"
#include "parallel/sequence_plan.h"

namespace longship::testing {

// The whole batch of tensors of local tokens; collective.
Tensor gather(const Context& ctx, const Group& sp, const SequencePlan& plan, const Tensor& local);

// Tokens whose rows in `after` differ from those in `before`, in any bit.
std::vector<int64_t> changed_tokens(const Tensor& before, const Tensor& after);

// first, first + 1, ..., end - 1.
std::vector<int64_t> token_range(int64_t first, int64_t end);

}  // namespace longship::testing
