// The backward of the delta rule by chunks; see delta_chunk.h for the equations of the states.
//
// With Y = -X S^T, dL = -strict_tril(X V'^T), and dq, dk and dg of gradient_sums.h:
//   dv = beta X,   dbeta = X v + Y (k e^G) + dL L   (sums along each row)
//   dk also from dL through the decayed scores, from its rows and its columns, and from beta Y
//   dg also from these parts of dk
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/chunk_spans.h"
#include "attention/linear/delta_chunk.h"
#include "attention/linear/gradient_sums.h"

namespace longship {

// Keeps from one call to the next, per token and head, three rows of [c, c] factors, V' and a part
// of the gradients, and the states that enter spans of chunks.
template <class A>
class DeltaBackward final : public LinearBackward {
 public:
  DeltaBackward(const Context& ctx, LinearProblem problem, Tensor states_NHKV, Tensor do_THV);

  Tensor zero_states(const Context& ctx) const override;
  AffineSummary summary(Context& ctx) override;
  void walk(const Context& ctx, int64_t row, const Tensor& in_HKV, const Tensor& out_HKV) override;
  void intra(Context& ctx) override;
  LinearGradients gradients(Context& ctx, const Tensor& grad_states_NHKV) override;

 private:
  ThreadScratch<A> make_scratch(const Context& ctx) const;
  ThreadScratch<A> walk_scratch(const Context& ctx) const;
  // out_NHKV = the gradients of the states that enter these cut segments for those in in_NHKV
  // (undefined: zeros) of the states that leave them; untouched at position 0 of a document.
  void walk_to_start(const Context& ctx, const CutRows& rows, const Tensor& in_NHKV,
                     const Tensor& out_NHKV) const;
  // m_NHKK = M of all cut segments but those at position 0.
  void walk_transitions(const Context& ctx, const Tensor& m_NHKK) const;
  // The gradient of the state through a segment, from the outputs too or that of the state alone.
  void retreat(const ThreadScratch<A>& scratch, const StateWalk& walk, bool has_outputs,
               const PanelMatrix<A>& dstate) const;
  bool is_first(const StateWalk& walk) const {
    return problem_.segments[static_cast<size_t>(walk.segment)].position == 0;
  }
  // What needs the gradient of a state, dS_out.
  void key_gradients(const ThreadScratch<A>& scratch, const DeltaChunk<A>& work, int64_t chunk,
                     int64_t head, const PanelMatrix<A>& state, const PanelMatrix<A>& dstate,
                     const LinearGradients& gradients) const;

  LinearProblem problem_;
  Tensor states_NHKV_, do_THV_;
  ChunkMatrices<A> inverses_, key_scores_, query_scores_, values_;
  ChunkSpans<A> spans_;
  GradientSums<A> sums_;
};

}  // namespace longship
