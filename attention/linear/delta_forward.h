// The forward of the delta rule by chunks; see delta_chunk.h for the equations.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/state_walk.h"
#include "attention/thread_scratch.h"

namespace longship {

// Keeps two [c, c] factors per chunk and head from the summary to the outputs: 2 c numbers per
// token and head.
template <class A>
class DeltaForward final : public LinearForward {
 public:
  DeltaForward(const Context& ctx, LinearProblem problem);

  Tensor zero_states(const Context& ctx) const override;
  AffineSummary summary(Context& ctx) override;
  void walk(const Context& ctx, int64_t row, const Tensor& in_HKV, const Tensor& out_HKV) override;
  void intra(Context& ctx) override;
  Tensor outputs(Context& ctx, const Tensor& states_NHKV) override;

 private:
  void make_inverses(const Context& ctx);
  // out_NHKV = what these cut segments leave of in_NHKV (undefined: of zeros).
  void walk_to_end(const Context& ctx, const CutRows& rows, const Tensor& in_NHKV,
                   const Tensor& out_NHKV) const;
  // m_NHKK = M of all cut segments.
  void walk_transitions(const Context& ctx, const Tensor& m_NHKK) const;
  // The state through a segment: all that it leaves, or M applied to the state alone.
  void advance(const ThreadScratch<A>& scratch, const StateWalk& walk, bool writes_values,
               const PanelMatrix<A>& state) const;
  ThreadScratch<A> walk_scratch(const Context& ctx) const;

  LinearProblem problem_;
  ChunkMatrices<A> inverses_, scores_;
  bool has_inverses_ = false;  // summaries and walks need them before intra()
};

}  // namespace longship
