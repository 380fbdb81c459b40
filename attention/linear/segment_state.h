// What enters a segment: the state carried to it (or the gradient carried back), or zero.
#pragma once

#include "attention/linear/linear_problem.h"
#include "attention/linear/panel_matrix.h"

namespace longship {

// state = the segment's row of `states` [N, H, K, V], or 0 if it has none.
template <class A>
void load_state(const LinearProblem& problem, const Tensor& states_NHKV, int64_t segment,
                int64_t head, const PanelMatrix<A>& state) {
  const int64_t row = problem.state_row(segment), K = problem.key_size, V = problem.value_size;
  if (row < 0)
    state.fill_zero();
  else
    load_rows({states_NHKV, (row * problem.num_heads + head) * K * V, V}, A{1}, state);
}

}  // namespace longship
