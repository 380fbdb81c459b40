// One chunk of one head of the delta rule. With T = (I + diag(beta) L)^-1, L the decayed scores of
// k with k, and the rest as in linear_chunk.h:
//
//   V' = T diag(beta) (V - (k e^G) S)
//   X  = T^T dV'
//   dS = what linear_chunk.h says - (k e^G)^T diag(beta) X
//
// This is the WY form of Yang et al. 2024 (arXiv 2406.06484), 2412.06464 (scalar gates) and the
// Kimi team 2025 (2510.26692, vector gates), with S taken into the parentheses: neither U = T beta
// V nor W = T beta k e^G is formed. Started from the identity without values, the same steps carry
// the segment's M forward, and M^T back.
#pragma once

#include "attention/linear/linear_chunk.h"

namespace longship {

template <class A>
class DeltaChunk : public LinearChunk<A> {
 public:
  using Matrix = PanelMatrix<A>;

  // As of LinearChunk.
  DeltaChunk(const LinearProblem& problem, A* workspace);
  static int64_t workspace_size(const LinearProblem& problem);

  // Loads keys, betas and gates of a chunk of the grid; what follows is about them.
  void begin(int64_t chunk, int64_t head);

  const A* beta() const { return beta_; }

  // values = V' for `state`, any columns of it, and the same ones of V in `v`; null for zeros.
  void write_values(const Matrix& inverse, const Matrix& state, const TensorRows* v,
                    const Matrix& values) const;
  // x = X for dS_out; d_o may be null, for zeros.
  void error_gradients(const Matrix& inverse, const Matrix& scores, const Matrix* d_o,
                       const Matrix& dstate, const Matrix& x) const;
  // dstate = dS
  void retreat(const Matrix& x, const Matrix* d_o, const Matrix& dstate) const;

 private:
  A *wide_, *beta_;
};

}  // namespace longship
