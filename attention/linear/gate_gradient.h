// The gradient of the log-gates of one chunk and head, dg, from rows that the gates decay and the
// gradients of these rows.
//
// What decays by e^{G_r - G_i}, G_r = g_0 + ... + g_r, feels the gates g_t of i < t <= r. So its
// part of dg_t can be summed over the ends r >= t or over the beginnings i < t. Taken is what needs
// no difference of long sums, in which the digits of a small dg_t are lost. Sums are fp64.
#pragma once

#include "attention/linear/chunk_decay.h"

namespace longship {

// c rows in the chunk, K key size; rows are matrices [c, K].
template <class A>
class GateGradient {
 public:
  using Matrix = PanelMatrix<A>;

  // Zeros. Without gates, or with constant ones, nothing is summed and add_to() adds nothing.
  // `workspace` holds workspace_size() numbers, aligned to the vector size, and is the object's own
  // until it goes.
  GateGradient(GateKind kind, int64_t length, int64_t key_size, A* workspace);
  static int64_t workspace_size(int64_t key_size);

  // Rows x_r e^{G_r}, decayed from the chunk's start: dg_t += sum over r >= t of x_r dx_r.
  void add_from_start(const Matrix& x, const Matrix& dx) const;
  // Rows x_i e^{G_last - G_i}, decayed to its end: dg_t += sum over i < t of x_i dx_i.
  void add_to_end(const Matrix& x, const Matrix& dx) const;
  // Scores left_r right_i e^{G_r - G_i}, i < r, and their gradients, 0 where i >= r; before
  // score_gradients(), which turns these into dleft and dright.
  //   scalar gates: dg_t += sum over i < t <= r of scores_ri dscores_ri
  void add_scores(const Matrix& scores, const Matrix& dscores) const;
  //   vector gates: what these pairs give dg_t is the sum of left dleft - right dright over the
  //   rows >= t, or less that over the rows < t; the shorter one is taken
  void add_between(const Matrix& left, const Matrix& dleft, const Matrix& right,
                   const Matrix& dright) const;
  // S_in[d] e^{G_last[d]}, decayed from start to end: products_K, those of it and its gradient, to
  // every dg_t.
  void add_through(const A* products_K) const;

  // Adds dg to the chunk's rows of a tensor [T, H] or [T, H, K], of A.
  void add_to(const TensorRows& rows) const;

 private:
  static constexpr int64_t W = kPanelLanes<A>;
  using Lanes = double[W];

  // Where panel p of row t is summed: scalar gates have one for all.
  double* lanes(int64_t p, int64_t t) const {
    return dg_ + ((is_scalar_ ? 0 : p) * length_ + t) * W;
  }
  // Adds the running sum to row t.
  void add(int64_t p, int64_t t, const Lanes& sum) const;

  bool is_scalar_;
  int64_t length_, key_size_;  // no rows without a gradient
  double* dg_;
};

}  // namespace longship
