// What enters a segment: the state carried to it (or the gradient carried back), or zero.
#pragma once

#include "attention/linear/linear_problem.h"
#include "attention/linear/panel_matrix.h"

namespace longship {

// The matrix of a row and head in a tensor [N, H, rows, columns], from a column on.
inline TensorRows state_matrix(const Tensor& x, int64_t row, int64_t head, int64_t first_column) {
  return {x, (row * x.dim(1) + head) * x.dim(2) * x.dim(3) + first_column, x.dim(3)};
}

// A state [H, K, V] as a row of states; undefined if it is.
inline Tensor as_one_row(const Tensor& state_HKV) {
  if (!state_HKV.defined()) return {};
  return state_HKV.reshape({1, state_HKV.dim(0), state_HKV.dim(1), state_HKV.dim(2)});
}

// state = these columns of a row, or 0 if there are no states.
template <class A>
void load_state(const Tensor& states_NHKV, int64_t row, int64_t head, int64_t first_column,
                const PanelMatrix<A>& state) {
  if (states_NHKV.defined())
    load_rows(state_matrix(states_NHKV, row, head, first_column), A{1}, state);
  else
    state.fill_zero();
}

// The same of a segment, whose state is 0 if it is whole.
template <class A>
void load_state(const LinearProblem& problem, const Tensor& states_NHKV, int64_t segment,
                int64_t head, const PanelMatrix<A>& state, int64_t first_column = 0) {
  const int64_t row = problem.state_row(segment);
  load_state(row < 0 ? Tensor() : states_NHKV, row, head, first_column, state);
}

}  // namespace longship
