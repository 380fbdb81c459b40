#include "attention/linear/delta_forward.h"

#include "attention/linear/delta_chunk.h"
#include "attention/linear/delta_factors.h"
#include "attention/linear/query_scores.h"
#include "attention/linear/segment_state.h"
#include "attention/thread_scratch.h"
#include "runtime/parallel_for.h"

namespace longship {

template <class A>
DeltaForward<A>::DeltaForward(const Context& ctx, LinearProblem problem)
    : problem_(std::move(problem)),
      inverses_(ctx, problem_.grid, problem_.num_heads),
      scores_(ctx, problem_.grid, problem_.num_heads) {
  compute_inverses<A>(ctx, problem_, inverses_, nullptr);
}

template <class A>
AffineSummary DeltaForward<A>::summary(Context& ctx) {
  constexpr int64_t C = LinearProblem::kChunkSize;
  const int64_t N = problem_.num_cut(), H = problem_.num_heads, K = problem_.key_size,
                V = problem_.value_size;
  const AffineSummary summary{.transition = Transition::kDense,
                              .m = ctx.zeros({N, H, K, K}, problem_.sums),
                              .b_NHKV = ctx.empty(problem_.states_shape(), problem_.sums)};
  const int64_t widest = std::max(K, V);
  const ThreadScratch<A> scratch(
      ctx, {DeltaChunk<A>::workspace_size(problem_), PanelMatrix<A>::size(K, widest),
            PanelMatrix<A>::size(C, widest)});
  // The columns of [B | M] are independent: B and M of a segment are two items of work.
  parallel_for_dynamic(ctx, N * H * 2, [&](int64_t index) {
    const int64_t row = index / (2 * H), head = index / 2 % H;
    const int64_t segment = problem_.cut[static_cast<size_t>(row)];
    const bool is_b = index % 2 == 0;
    // Nothing precedes the start of a document, so its M is never applied.
    if (!is_b && problem_.segments[static_cast<size_t>(segment)].position == 0) return;
    DeltaChunk<A> work(problem_, scratch.part(0));
    const PanelMatrix<A> state(scratch.part(1), K, is_b ? V : K);
    state.fill_zero();
    for (int64_t d = 0; !is_b && d < K; ++d) state.at(d, d) = 1;
    for (int64_t c = problem_.grid.first_chunk(segment); c < problem_.grid.first_chunk(segment + 1);
         ++c) {
      work.begin(c, head);
      const PanelMatrix<A> values(scratch.part(2), work.length(), state.columns);
      work.write_values(inverses_.at(c, head), state, is_b, values);
      work.advance(values, state);
    }
    store_rows(
        state, A{1},
        {is_b ? summary.b_NHKV : summary.m, (row * H + head) * K * state.columns, state.columns});
  });
  return summary;
}

template <class A>
void DeltaForward<A>::intra(Context& ctx) {
  compute_query_scores(ctx, problem_, scores_);
}

template <class A>
Tensor DeltaForward<A>::outputs(Context& ctx, const Tensor& states_NHKV) {
  constexpr int64_t C = LinearProblem::kChunkSize;
  const int64_t H = problem_.num_heads, K = problem_.key_size, V = problem_.value_size;
  LinearProblem::check_tensor("states", states_NHKV, problem_.states_shape(), problem_.sums);
  const Tensor o_THV = ctx.empty({problem_.num_tokens, H, V}, problem_.input.v_THV.dtype());
  const ThreadScratch<A> scratch(
      ctx, {DeltaChunk<A>::workspace_size(problem_), PanelMatrix<A>::size(K, V),
            PanelMatrix<A>::size(C, V), PanelMatrix<A>::size(C, V)});
  parallel_for_dynamic(ctx, problem_.num_segments() * H, [&](int64_t index) {
    const int64_t segment = index / H, head = index % H;
    DeltaChunk<A> work(problem_, scratch.part(0));
    const PanelMatrix<A> state(scratch.part(1), K, V);
    load_state(problem_, states_NHKV, segment, head, state);
    for (int64_t c = problem_.grid.first_chunk(segment); c < problem_.grid.first_chunk(segment + 1);
         ++c) {
      work.begin(c, head);
      const PanelMatrix<A> values(scratch.part(2), work.length(), V);
      const PanelMatrix<A> out(scratch.part(3), work.length(), V);
      work.write_values(inverses_.at(c, head), state, true, values);
      multiply(scores_.at(c, head), values, out, {.add = false, .lower_x = true});
      work.read_state(state, out);
      work.advance(values, state);
      store_rows(out, A{1}, work.rows(o_THV));
    }
  });
  return o_THV;
}

template class DeltaForward<float>;
template class DeltaForward<double>;

}  // namespace longship
