// What enters a segment: the state carried to it (or the gradient carried back), or zero.
#pragma once

#include "attention/linear/linear_problem.h"
#include "attention/linear/panel_matrix.h"

namespace longship {

// The matrix of a cut segment and head in a tensor [N, H, rows, columns], from a column on.
inline TensorRows state_rows(const LinearProblem& problem, const Tensor& x, int64_t segment,
                             int64_t head, int64_t first_column) {
  const int64_t index = problem.state_row(segment) * x.dim(1) + head;
  return {x, index * x.dim(2) * x.dim(3) + first_column, x.dim(3)};
}

// state = columns of the segment's row of `states` [N, H, K, V], or 0 if it has none.
template <class A>
void load_state(const LinearProblem& problem, const Tensor& states_NHKV, int64_t segment,
                int64_t head, const PanelMatrix<A>& state, int64_t first_column = 0) {
  if (problem.state_row(segment) < 0)
    state.fill_zero();
  else
    load_rows(state_rows(problem, states_NHKV, segment, head, first_column), A{1}, state);
}

}  // namespace longship
