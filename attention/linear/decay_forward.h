// The forward of linear attention without the delta rule, by chunks; see linear_chunk.h for the
// equations.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/linear_problem.h"

namespace longship {

// Keeps the outputs of each chunk by itself, A V, from intra() to outputs().
template <class A>
class DecayForward final : public LinearForward {
 public:
  DecayForward(const Context& ctx, LinearProblem problem);

  AffineSummary summary(Context& ctx) override;
  void intra(Context& ctx) override;
  Tensor outputs(Context& ctx, const Tensor& states_NHKV) override;

 private:
  LinearProblem problem_;
  ChunkMatrices<A> local_outputs_;
};

}  // namespace longship
