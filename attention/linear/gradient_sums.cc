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
  return GateGradient<A>::workspace_size(K) + Matrix::size(kC, kC) + kC + 4 * Matrix::size(kC, K) +
         Matrix::size(V, std::max(kC, K));
}

template <class A>
GateGradient<A> GradientSums<A>::gate_gradient(const LinearChunk<A>& work, A* workspace) const {
  return GateGradient<A>(gate_kind(problem_.input.gate), work.length(), problem_.key_size,
                         workspace);
}

template <class A>
void GradientSums<A>::add_query_gradients(const LinearChunk<A>& work, const Matrix& scores,
                                          const Matrix& d_o, const Matrix& values,
                                          const Matrix& state, A* workspace) const {
  const int64_t length = work.length(), K = problem_.key_size;
  const GateGradient<A> dg = gate_gradient(work, workspace);
  const Matrix dscores(after_gate_gradient(workspace), length, length);
  A* const diagonal = dscores.data + Matrix::size(kC, kC);
  const Matrix q(diagonal + kC, length, K), dq(q.data + Matrix::size(kC, K), length, K),
      dk(dq.data + Matrix::size(kC, K), length, K),
      dq_of_state(dk.data + Matrix::size(kC, K), length, K);
  A* const transposed = dq_of_state.data + Matrix::size(kC, K);
  work.load_q(q);
  multiply_by_transpose(d_o, state, transposed, dq_of_state, {.add = false});
  work.decay().decay_from_start(dq_of_state);
  dg.add_from_start(q, dq_of_state);
  multiply_by_transpose(d_o, values, transposed, dscores, {.add = false, .lower_out = true});
  keep_below_diagonal(dscores, diagonal);
  dg.add_scores(scores, dscores);
  dq.fill_zero();
  dk.fill_zero();
  work.decay().score_gradients(dscores, q, work.k(), dq, dk);
  dg.add_between(q, dq, work.k(), dk);
  if (has_gates()) dg.add_to(work.rows(dgate_));
  add_rows(dq_of_state, dq);
  add_scaled_rows(diagonal, work.k(), dq);
  add_scaled_rows(diagonal, q, dk);
  store_rows(dq, work.scale(), work.rows(dq_THK_));
  store_rows(dk, A{1}, work.rows(dk_THK_));
}

template <class A>
void GradientSums<A>::state_gradients(const LinearChunk<A>& work, const Matrix& values,
                                      const Matrix* state, const Matrix& dstate, A* workspace,
                                      const Matrix& dk, const GateGradient<A>& dg) const {
  A* const transposed = after_gate_gradient(workspace);
  multiply_by_transpose(values, dstate, transposed, dk, {.add = false});
  work.decay().decay_to_end(dk);
  if (!has_gates()) return;
  dg.add_to_end(work.k(), dk);
  A* const products_K = transposed;
  work.decay().state_products(*state, dstate, products_K);
  dg.add_through(products_K);
}

template <class A>
void GradientSums<A>::add_key_gradients(const LinearChunk<A>& work, const Matrix& dk,
                                        const GateGradient<A>& dg, A* workspace) const {
  if (has_gates()) dg.add_to(work.rows(dgate_));
  const Matrix sum(after_gate_gradient(workspace), work.length(), problem_.key_size);
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

template class GradientSums<float>;
template class GradientSums<double>;

}  // namespace longship
