// The gradients of queries, keys and gates, summed from the parts that a backward by chunks finds.
//
//   dq, dk from dA = tril(do V'^T) through the decayed scores, from do S^T and V' dS_out^T through
//   their decays
//   dg from q dq and k dk (gate_gradient.h); the terms of equal row and column would cancel there
//   and are left out before they are rounded
#pragma once

#include "attention/linear/gate_gradient.h"
#include "attention/linear/linear_chunk.h"
#include "runtime/context.h"

namespace longship {

// Every call is about the chunk and head that `work` has begun; different chunks and heads may be
// worked on at the same time. `workspace` holds workspace_size() numbers, aligned to the vector
// size, and between calls nothing but a chunk's gate_gradient().
template <class A>
class GradientSums {
 public:
  using Matrix = PanelMatrix<A>;

  GradientSums(const Context& ctx, const LinearProblem& problem);
  static int64_t workspace_size(const LinearProblem& problem);

  // Whether the gates have a gradient.
  bool has_gates() const { return dgate_.defined(); }

  // First of a chunk: everything that needs no gradient of a state. `scores` are A, `state` is that
  // before the chunk, `values` are V', d_o [c, V] is the gradient of the outputs.
  void add_query_gradients(const LinearChunk<A>& work, const Matrix& scores, const Matrix& d_o,
                           const Matrix& values, const Matrix& state, A* workspace) const;
  // What the next calls, and the caller, add dg to. Without gates that have a gradient it does
  // nothing.
  GateGradient<A> gate_gradient(const LinearChunk<A>& work, A* workspace) const;
  // dk [c, K] = the gradient of k through the values' way into the state, S_out. What it and the
  // state's own way give to dg; `state` is read if has_gates().
  void state_gradients(const LinearChunk<A>& work, const Matrix& values, const Matrix* state,
                       const Matrix& dstate, A* workspace, const Matrix& dk,
                       const GateGradient<A>& dg) const;
  // Last of a chunk: adds all other parts of dk, and dg.
  void add_key_gradients(const LinearChunk<A>& work, const Matrix& dk, const GateGradient<A>& dg,
                         A* workspace) const;

  // After the last chunk. dq_TGK and dk_TGK: the heads that share a key head summed in ascending
  // order.
  Tensor dq_TGK(const Context& ctx) const { return sum_groups(ctx, dq_THK_); }
  Tensor dk_TGK(const Context& ctx) const { return sum_groups(ctx, dk_THK_); }
  // Undefined for constant gates and none.
  const Tensor& dgate() const { return dgate_; }

 private:
  Tensor sum_groups(const Context& ctx, const Tensor& heads_THK) const;
  // The rest of the workspace.
  A* after_gate_gradient(A* workspace) const {
    return workspace + GateGradient<A>::workspace_size(problem_.key_size);
  }

  const LinearProblem& problem_;
  // One head of dq and dk per state head.
  Tensor dq_THK_, dk_THK_, dgate_;
};

}  // namespace longship
