// The gradients of queries, keys and gates, summed from the parts that a backward by chunks finds.
//
//   dq, dk from dA = tril(do V'^T) through the decayed scores, from do S^T and V' dS_out^T through
//   their decays
//   dg_t = sum over r >= t of dG_r,   dG = q dq - k dk
// The terms of equal row and column cancel in dG and are left out of it before they are rounded.
#pragma once

#include "attention/linear/linear_chunk.h"
#include "runtime/context.h"

namespace longship {

// Every call is about the chunk and head that `work` has begun; different chunks and heads may be
// worked on at the same time. `workspace` holds workspace_size() numbers, aligned to the vector
// size, and holds nothing between calls.
template <class A>
class GradientSums {
 public:
  using Matrix = PanelMatrix<A>;

  GradientSums(const Context& ctx, const LinearProblem& problem);
  static int64_t workspace_size(const LinearProblem& problem);

  // Whether the gates have a gradient.
  bool has_gates() const { return dgate_.defined(); }

  // First of a chunk: everything that needs no gradient of a state. `state` is that before the
  // chunk, `values` are V', d_o [c, V] is the gradient of the outputs.
  void add_query_gradients(const LinearChunk<A>& work, const Matrix& d_o, const Matrix& values,
                           const Matrix& state, A* workspace) const;
  // dk [c, K] = the gradient of k through the values' way into the state, S_out. Adds its part and
  // the state's own to dG [c, K] if has_gates(); only then is `state` read.
  void state_gradients(const LinearChunk<A>& work, const Matrix& values, const Matrix* state,
                       const Matrix& dstate, A* workspace, const Matrix& dk,
                       const Matrix& dG) const;
  // Last of a chunk: adds all other parts of dk, and of dG if has_gates().
  void add_key_gradients(const LinearChunk<A>& work, const Matrix& dk, const Matrix& dG,
                         A* workspace) const;

  // After the last chunk. dq_TGK and dk_TGK: the heads that share a key head summed in ascending
  // order.
  Tensor dq_TGK(const Context& ctx) const { return sum_groups(ctx, dq_THK_); }
  Tensor dk_TGK(const Context& ctx) const { return sum_groups(ctx, dk_THK_); }
  // Undefined for constant gates and none.
  const Tensor& dgate() const { return dgate_; }

 private:
  Tensor sum_groups(const Context& ctx, const Tensor& heads_THK) const;
  // Adds the sums over each row (scalar gates) or the rows (vector gates) of dG to dgate_.
  void add_to_gate_gradient(const LinearChunk<A>& work, const Matrix& dG) const;
  // Turns the chunk's dG in dgate_ into dg.
  void finish_gate_gradient(const LinearChunk<A>& work) const;

  const LinearProblem& problem_;
  // One head of dq and dk per state head.
  Tensor dq_THK_, dk_THK_, dgate_;
};

}  // namespace longship
