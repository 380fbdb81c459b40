// The [c, c] factors of every chunk and head of the delta rule that need no state.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/delta_problem.h"

namespace longship {

// L[r][i] = k_r k_i decayed, i < r; T = (I + diag(beta) L)^-1. `key_scores` (L) may be null: it is
// then not kept. Shared out by (chunk, head).
template <class A>
void compute_inverses(const Context& ctx, const DeltaProblem& problem,
                      const ChunkMatrices<A>& inverses, const ChunkMatrices<A>* key_scores);

// A[r][i] = scale * q_r k_i decayed, i <= r.
template <class A>
void compute_query_scores(const Context& ctx, const DeltaProblem& problem,
                          const ChunkMatrices<A>& scores);

}  // namespace longship
