// One chunk of one head of the delta rule: the steps that carry the state forward through it and
// its gradient back. With T = (I + diag(beta) L)^-1 and L, A the decayed scores of k with k and of
// scale * q with k, all per chunk, and G the running sum of the log-gates:
//
//   V'    = T diag(beta) (V - (k e^G) S)              the values written into the state
//   o     = (scale q e^G) S + A V'
//   S_out = e^{G_last} S + (k e^{G_last - G})^T V'
//   X     = T^T (A^T do + (k e^{G_last - G}) dS_out)
//   dS    = e^{G_last} dS_out + (scale q e^G)^T do - (k e^G)^T diag(beta) X
//
// This is the WY form of Yang et al. 2024 (arXiv 2406.06484), 2412.06464 (scalar gates) and the
// Kimi team 2025 (2510.26692, vector gates), with S taken into the parentheses: neither U = T beta
// V nor W = T beta k e^G is formed. Started from the identity without values, the same steps carry
// the segment's M forward, and M^T back.
#pragma once

#include "attention/linear/chunk_decay.h"
#include "attention/linear/delta_problem.h"

namespace longship {

template <class A>
class DeltaChunk {
 public:
  using Matrix = PanelMatrix<A>;

  // `workspace` holds workspace_size() numbers, aligned to the vector size; `problem` outlives
  // this.
  DeltaChunk(const DeltaProblem& problem, A* workspace);
  static int64_t workspace_size(const DeltaProblem& problem);

  // Loads keys, betas and gates of a chunk of the grid; what follows is about them.
  void begin(int64_t chunk, int64_t head);

  int64_t length() const { return chunk_.length; }
  const ChunkDecay<A>& decay() const { return decay_; }
  const A* beta() const { return beta_; }
  Matrix k() const { return {k_, length(), problem_.key_size}; }
  // The chunk's rows of a [T, heads, size] tensor with one head per key head or state head, or of
  // [T, H].
  TensorRows rows(const Tensor& x) const;
  // scale * q
  void load_q(const Matrix& out) const { load_rows(rows(problem_.input.q_TGK), scale(), out); }
  A scale() const { return static_cast<A>(problem_.input.scale); }

  // values = V' for `state`, with V = 0 unless with_values.
  void write_values(const Matrix& inverse, const Matrix& state, bool with_values,
                    const Matrix& values) const;
  // state = S_out
  void advance(const Matrix& values, const Matrix& state) const;
  // out = o, before advance().
  void read_outputs(const Matrix& scores, const Matrix& values, const Matrix& state,
                    const Matrix& out) const;
  // x = X for dS_out; d_o may be null, for zeros.
  void value_gradients(const Matrix& inverse, const Matrix& scores, const Matrix* d_o,
                       const Matrix& dstate, const Matrix& x) const;
  // dstate = dS
  void retreat(const Matrix& x, const Matrix* d_o, const Matrix& dstate) const;

 private:
  // k e^G in working space that the next of these calls overwrites.
  Matrix keys_from_start() const;
  Matrix keys_to_end() const;
  Matrix queries_from_start() const;
  Matrix decayed() const { return {decayed_, length(), problem_.key_size}; }

  const DeltaProblem& problem_;
  A *k_, *decayed_, *wide_, *beta_;
  ChunkDecay<A> decay_;
  Chunk chunk_;
  int64_t head_ = 0;
};

}  // namespace longship
