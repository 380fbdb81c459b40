#include "attention/linear/gradient_sums.h"

#include "attention/linear/panel_algebra.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

constexpr int64_t kC = LinearProblem::kChunkSize;

}  // namespace

template <class A>
GradientSums<A>::GradientSums(const Context& ctx, const LinearProblem& problem)
    : problem_(problem) {
  const Shape shape{problem.num_tokens, problem.num_heads, problem.key_size};
  dq_THK_ = ctx.empty(shape, problem.sums);
  dk_THK_ = ctx.empty(shape, problem.sums);
  const Tensor& gate = problem.input.gate;
  if (gate.defined() && gate.rank() > 1) dgate_ = ctx.zeros(gate.shape(), problem.sums);
}

template <class A>
int64_t GradientSums<A>::workspace_size(const LinearProblem& problem) {
  const int64_t K = problem.key_size, V = problem.value_size;
  return Matrix::size(kC, kC) + kC + 4 * Matrix::size(kC, K) + Matrix::size(V, std::max(kC, K));
}

template <class A>
void GradientSums<A>::add_query_gradients(const LinearChunk<A>& work, const Matrix& d_o,
                                          const Matrix& values, const Matrix& state,
                                          A* workspace) const {
  const int64_t length = work.length(), K = problem_.key_size;
  const Matrix dscores(workspace, length, length);
  A* const diagonal = workspace + Matrix::size(kC, kC);
  const Matrix q(diagonal + kC, length, K), dq(q.data + Matrix::size(kC, K), length, K),
      dk(dq.data + Matrix::size(kC, K), length, K), dG(dk.data + Matrix::size(kC, K), length, K);
  A* const transposed = dG.data + Matrix::size(kC, K);
  work.load_q(q);
  multiply_by_transpose(d_o, values, transposed, dscores, {.add = false, .lower_out = true});
  keep_below_diagonal(dscores, diagonal);
  multiply_by_transpose(d_o, state, transposed, dq, {.add = false});
  work.decay().decay_from_start(dq);
  dk.fill_zero();
  work.decay().score_gradients(dscores, q, work.k(), dq, dk);
  if (has_gates()) {
    dG.fill_zero();
    add_elements(A{1}, q, dq, dG);
    add_elements(A{-1}, work.k(), dk, dG);
    add_to_gate_gradient(work, dG);
  }
  add_scaled_rows(diagonal, work.k(), dq);
  add_scaled_rows(diagonal, q, dk);
  store_rows(dq, work.scale(), work.rows(dq_THK_));
  store_rows(dk, A{1}, work.rows(dk_THK_));
}

template <class A>
void GradientSums<A>::state_gradients(const LinearChunk<A>& work, const Matrix& values,
                                      const Matrix* state, const Matrix& dstate, A* workspace,
                                      const Matrix& dk, const Matrix& dG) const {
  multiply_by_transpose(values, dstate, workspace, dk, {.add = false});
  work.decay().decay_to_end(dk);
  if (!has_gates()) return;
  const Matrix k = work.k(), last = dG.row_range(work.length() - 1, 1);
  for (int64_t r = 0; r + 1 < work.length(); ++r) {
    add_elements(A{-1}, k.row_range(r, 1), dk.row_range(r, 1), dG.row_range(r, 1));
    add_elements(A{1}, k.row_range(r, 1), dk.row_range(r, 1), last);
  }
  work.decay().add_state_gradient(*state, dstate, dG);
}

template <class A>
void GradientSums<A>::add_key_gradients(const LinearChunk<A>& work, const Matrix& dk,
                                        const Matrix& dG, A* workspace) const {
  if (has_gates()) {
    add_to_gate_gradient(work, dG);
    finish_gate_gradient(work);
  }
  const Matrix sum(workspace, work.length(), problem_.key_size);
  load_rows(work.rows(dk_THK_), A{1}, sum);
  add_rows(dk, sum);
  store_rows(sum, A{1}, work.rows(dk_THK_));
}

template <class A>
Tensor GradientSums<A>::sum_groups(const Context& ctx, const Tensor& heads_THK) const {
  const int64_t G = problem_.num_key_heads, K = problem_.key_size, group = problem_.num_heads / G;
  if (group == 1) return heads_THK;
  const Tensor sums_TGK = ctx.empty({problem_.num_tokens, G, K}, problem_.sums);
  const A* from = heads_THK.data<A>();
  A* to = sums_TGK.data<A>();
  parallel_for(ctx, problem_.num_tokens * G, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::copy_n(from + row * group * K, K, to + row * K);
      for (int64_t h = 1; h < group; ++h)
        for (int64_t d = 0; d < K; ++d) to[row * K + d] += from[(row * group + h) * K + d];
    }
  });
  return sums_TGK;
}

template <class A>
void GradientSums<A>::add_to_gate_gradient(const LinearChunk<A>& work, const Matrix& dG) const {
  const TensorRows rows = work.rows(dgate_);
  A* to = dgate_.template data<A>() + rows.first;
  if (dgate_.rank() == 2) {
    for (int64_t r = 0; r < dG.rows; ++r) to[r * rows.step] += row_sum(dG, r);
    return;
  }
  in_tensor_order(dG, [&](int64_t p, int64_t r, const A* from) {
    A* sums = to + r * rows.step + p * dG.W;
    const int64_t width = std::min(dG.W, dG.columns - p * dG.W);
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) sums[i] += from[i];
  });
}

template <class A>
void GradientSums<A>::finish_gate_gradient(const LinearChunk<A>& work) const {
  const TensorRows rows = work.rows(dgate_);
  A* to = dgate_.template data<A>() + rows.first;
  const int64_t size = dgate_.rank() == 2 ? 1 : dgate_.dim(2);
  for (int64_t r = work.length() - 2; r >= 0; --r)
#pragma GCC ivdep
    for (int64_t d = 0; d < size; ++d) to[r * rows.step + d] += to[(r + 1) * rows.step + d];
}

template class GradientSums<float>;
template class GradientSums<double>;

}  // namespace longship
