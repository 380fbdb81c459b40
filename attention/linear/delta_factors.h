// The [c, c] factors of every chunk and head of the delta rule that need no state.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/linear_problem.h"

namespace longship {

// L[r][i] = k_r k_i decayed, i < r;  T = (I + diag(beta) L)^-1;  A[r][i] = scale q_r k_i decayed,
// i <= r. Null: not wanted.
template <class A>
struct DeltaFactors {
  const ChunkMatrices<A>* inverses = nullptr;      // T
  const ChunkMatrices<A>* key_scores = nullptr;    // L; only with inverses
  const ChunkMatrices<A>* query_scores = nullptr;  // A
};

// Shared out by (chunk, head).
template <class A>
void compute_factors(const Context& ctx, const LinearProblem& problem,
                     const DeltaFactors<A>& factors);

}  // namespace longship
