// The bytes that softmax schedules send by the formulas in their headers, counted head by head and
// token by token from the definition of the mask.
#pragma once

#include <ostream>
#include <set>

#include "tests/support/softmax_case.h"

namespace longship::testing {

struct SoftmaxBytes {
  int64_t forward = 0, backward = 0;
  bool operator==(const SoftmaxBytes&) const = default;
};
std::ostream& operator<<(std::ostream& out, const SoftmaxBytes& bytes);

// Of the rank of `plan`, for a causal mask without a window.
SoftmaxBytes ulysses_bytes(const SequencePlan& plan, const AttentionBatch& batch);
SoftmaxBytes ring_bytes(const SequencePlan& plan, const AttentionBatch& batch);
SoftmaxBytes usp_bytes(const SequencePlan& plan, const AttentionBatch& batch, int ulysses_degree);
SoftmaxBytes token_ring_bytes(const SequencePlan& plan, const AttentionBatch& batch);
SoftmaxBytes gather_kv_bytes(const SequencePlan& plan, const AttentionBatch& batch);

// The keys of a rank that some query of another sees.
int64_t num_keys_seen(const SequencePlan& plan, int query_rank, int key_rank);

}  // namespace longship::testing
