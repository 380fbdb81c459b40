// The [c, c] factors of every chunk and head of the delta rule that need no state.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/linear_problem.h"

namespace longship {

// L[r][i] = k_r k_i decayed, i < r; T = (I + diag(beta) L)^-1. `key_scores` (L) may be null: it is
// then not kept. Shared out by (chunk, head).
template <class A>
void compute_inverses(const Context& ctx, const LinearProblem& problem,
                      const ChunkMatrices<A>& inverses, const ChunkMatrices<A>* key_scores);

}  // namespace longship
