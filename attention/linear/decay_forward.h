// The forward of linear attention without the delta rule, by chunks; see linear_chunk.h for the
// equations.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/state_walk.h"

namespace longship {

// Keeps the outputs of each chunk by itself, A V, from intra() to outputs().
template <class A>
class DecayForward final : public LinearForward {
 public:
  DecayForward(const Context& ctx, LinearProblem problem);

  Tensor zero_states(const Context& ctx) const override;
  AffineSummary summary(Context& ctx) override;
  void walk(const Context& ctx, int64_t row, const Tensor& in_HKV, const Tensor& out_HKV) override;
  void intra(Context& ctx) override;
  Tensor outputs(Context& ctx, const Tensor& states_NHKV) override;

 private:
  // out_NHKV = what these cut segments leave of in_NHKV (undefined: of zeros).
  void walk_to_end(const Context& ctx, const CutRows& rows, const Tensor& in_NHKV,
                   const Tensor& out_NHKV) const;

  LinearProblem problem_;
  ChunkMatrices<A> local_outputs_;
};

}  // namespace longship
