// The backward of linear attention without the delta rule, by chunks; see linear_chunk.h for the
// equations of states and values, gradient_sums.h for those of queries, keys and gates.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/chunk_spans.h"
#include "attention/linear/gradient_sums.h"

namespace longship {

// Keeps from one call to the next, per token and head, one row of [c, c] scores and a part of the
// gradients; for gates with a gradient also the states that enter spans of chunks.
template <class A>
class DecayBackward final : public LinearBackward {
 public:
  DecayBackward(const Context& ctx, LinearProblem problem, Tensor states_NHKV, Tensor do_THV);

  Tensor zero_states(const Context& ctx) const override;
  AffineSummary summary(Context& ctx) override;
  void walk(const Context& ctx, int64_t row, const Tensor& in_HKV, const Tensor& out_HKV) override;
  void intra(Context& ctx) override;
  LinearGradients gradients(Context& ctx, const Tensor& grad_states_NHKV) override;

 private:
  ThreadScratch<A> make_scratch(const Context& ctx) const;
  // out_NHKV = the gradients of the states that enter these cut segments for those in in_NHKV
  // (undefined: zeros) of the states that leave them; untouched at position 0 of a document.
  void walk_to_start(const Context& ctx, const CutRows& rows, const Tensor& in_NHKV,
                     const Tensor& out_NHKV) const;
  void advance(const ThreadScratch<A>& scratch, int64_t chunk, int64_t head,
               const StateColumns& columns, const PanelMatrix<A>& state) const;
  // What needs the gradient of a state, dS_out. `state` is that before the chunk, null where the
  // gates have no gradient.
  void key_gradients(const ThreadScratch<A>& scratch, const LinearChunk<A>& work,
                     const PanelMatrix<A>& scores, const PanelMatrix<A>* state,
                     const PanelMatrix<A>& dstate, const Tensor& dv_THV) const;

  LinearProblem problem_;
  Tensor states_NHKV_, do_THV_;
  ChunkMatrices<A> scores_;
  GradientSums<A> sums_;
  ChunkSpans<A> spans_;
};

}  // namespace longship
