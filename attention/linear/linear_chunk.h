// One chunk of one head of linear attention: the steps that carry the state forward through it and
// its gradient back. With A the decayed scores of scale * q with k, G the running sum of the
// log-gates and V' the values written into the state, which are V without the delta rule:
//
//   o     = (scale q e^G) S + A V'
//   S_out = e^{G_last} S + (k e^{G_last - G})^T V'
//   dV'   = A^T do + (k e^{G_last - G}) dS_out
//   dS    = e^{G_last} dS_out + (scale q e^G)^T do
//
// This is the chunk form of GLA (Yang et al. 2023, arXiv 2312.06635), of Mamba-2 (Dao and Gu 2024,
// 2405.21060) for scalar gates and of lightning attention (Qin et al. 2024, 2401.04658) for
// constant ones.
#pragma once

#include "attention/linear/chunk_decay.h"
#include "attention/linear/linear_problem.h"
#include "attention/linear/row_prefetch.h"

namespace longship {

template <class A>
class LinearChunk {
 public:
  using Matrix = PanelMatrix<A>;

  // `workspace` holds workspace_size() numbers, aligned to the vector size; `problem` outlives
  // this.
  LinearChunk(const LinearProblem& problem, A* workspace);
  static int64_t workspace_size(const LinearProblem& problem);

  // Loads keys and gates of a chunk of the grid; what follows is about them.
  void begin(int64_t chunk, int64_t head);
  // Products up to the next begin() fetch the rows of these tensors that belong to another chunk,
  // the next of a walk, if it is in the grid. At most four.
  void fetch_meanwhile(int64_t chunk, std::initializer_list<const Tensor*> tensors);

  int64_t length() const { return chunk_.length; }
  const ChunkDecay<A>& decay() const { return decay_; }
  Matrix k() const { return {k_, length(), problem_.key_size}; }
  // The chunk's rows of a [T, heads, size] tensor with one head per key head or state head, or of
  // [T, H].
  TensorRows rows(const Tensor& x) const;
  // scale * q
  void load_q(const Matrix& out) const { load_rows(rows(problem_.input.q_TGK), scale(), out); }
  A scale() const { return static_cast<A>(problem_.input.scale); }

  // out = A
  void query_scores(const Matrix& out) const;
  // out += (scale q e^G) S
  void read_state(const Matrix& state, const Matrix& out) const;
  // state = S_out
  void advance(const Matrix& values, const Matrix& state) const;
  // dvalues = dV' for dS_out; d_o may be null, for zeros.
  void value_gradients(const Matrix& scores, const Matrix* d_o, const Matrix& dstate,
                       const Matrix& dvalues) const;
  // dstate = dS
  void retreat(const Matrix* d_o, const Matrix& dstate) const;

 protected:
  // k e^G in working space that the next step overwrites.
  Matrix keys_from_start() const;

  const LinearProblem& problem_;
  mutable RowPrefetch prefetch_;

 private:
  TensorRows rows_of(const Chunk& chunk, const Tensor& x) const;
  Matrix keys_to_end() const;
  Matrix queries_from_start() const;
  Matrix decayed() const { return {decayed_, length(), problem_.key_size}; }

  A *k_, *decayed_;
  ChunkDecay<A> decay_;
  Chunk chunk_;
  int64_t head_ = 0;
};

}  // namespace longship
