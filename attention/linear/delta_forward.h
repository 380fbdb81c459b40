// The forward of the delta rule by chunks; see delta_chunk.h for the equations.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/linear_problem.h"

namespace longship {

// Keeps two [c, c] factors per chunk and head from the summary to the outputs: 2 c numbers per
// token and head.
template <class A>
class DeltaForward final : public LinearForward {
 public:
  DeltaForward(const Context& ctx, LinearProblem problem);

  AffineSummary summary(Context& ctx) override;
  void intra(Context& ctx) override;
  Tensor outputs(Context& ctx, const Tensor& states_NHKV) override;

 private:
  LinearProblem problem_;
  ChunkMatrices<A> inverses_, scores_;
  bool has_inverses_ = false;  // a summary needs them before intra()
};

}  // namespace longship
