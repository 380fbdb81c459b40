// The decayed scores of queries with keys in every chunk and head, which need no state.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/linear_problem.h"

namespace longship {

// A[r][i] = scale * q_r k_i decayed, i <= r. Shared out by (chunk, head).
template <class A>
void compute_query_scores(const Context& ctx, const LinearProblem& problem,
                          const ChunkMatrices<A>& scores);

}  // namespace longship
