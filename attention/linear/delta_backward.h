// The backward of the delta rule by chunks; see delta_chunk.h for the equations of the states.
//
// With Y = -X S^T, dA = tril(do V'^T) and dL = -strict_tril(X V'^T):
//   dv = beta X,   dbeta = X v + Y (k e^G) + dL L   (sums along each row)
//   dq, dk from dA and dL through the decayed scores, from do S^T, V' dS_out^T and beta Y through
//   their decays
//   dg_t = sum over r >= t of dG_r,   dG = q dq - k dk_from_columns + k dk_from_rows
// The terms of equal row and column cancel in dG and are left out of it before they are rounded.
#pragma once

#include "attention/linear/chunk_matrices.h"
#include "attention/linear/delta_chunk.h"
#include "attention/thread_scratch.h"

namespace longship {

// Keeps from one call to the next, per token and head, three rows of [c, c] factors, V' and a part
// of the gradients, and one state per kStateStride chunks.
template <class A>
class DeltaBackward final : public LinearBackward {
 public:
  DeltaBackward(const Context& ctx, DeltaProblem problem, Tensor states_NHKV, Tensor do_THV);

  AffineSummary summary(Context& ctx) override;
  void intra(Context& ctx) override;
  LinearGradients gradients(Context& ctx, const Tensor& grad_states_NHKV) override;

 private:
  // Chunks between two kept states; those within are computed again, one product each.
  static constexpr int64_t kStateStride = 8;

  ThreadScratch<A> make_scratch(const Context& ctx) const;
  // The state before `chunk`, which is a multiple of kStateStride chunks into its segment.
  PanelMatrix<A> kept_state(int64_t segment, int64_t chunk, int64_t head) const;
  // The parts of dq, dk and dG that need no gradient of a state; `state` is that before the chunk.
  void query_gradients(const ThreadScratch<A>& scratch, const DeltaChunk<A>& work, int64_t chunk,
                       int64_t head, const PanelMatrix<A>& state) const;
  // All others; `dstate` is dS_out, and becomes dS.
  void key_gradients(const ThreadScratch<A>& scratch, const DeltaChunk<A>& work, int64_t chunk,
                     int64_t head, const PanelMatrix<A>& state, const PanelMatrix<A>& dstate,
                     const LinearGradients& gradients) const;
  // Adds the sums over each row (scalar gates) or the rows (vector gates) of dG to dgate_.
  void add_to_gate_gradient(const DeltaChunk<A>& work, const PanelMatrix<A>& dG) const;
  // Turns the chunk's dG in dgate_ into dg.
  void finish_gate_gradient(const DeltaChunk<A>& work) const;

  DeltaProblem problem_;
  Tensor states_NHKV_, do_THV_;
  ChunkMatrices<A> inverses_, key_scores_, query_scores_, values_;
  std::vector<int64_t> first_kept_;  // per segment, among the kept states of a head
  Tensor kept_states_;
  // One head of dq and dk per state head; dk and dgate are parts of sums until gradients() is done.
  Tensor dq_THK_, dk_THK_, dgate_;
};

}  // namespace longship
