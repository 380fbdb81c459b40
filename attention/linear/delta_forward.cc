#include "attention/linear/delta_forward.h"

#include "attention/linear/delta_chunk.h"
#include "attention/linear/delta_factors.h"
#include "attention/linear/segment_state.h"
#include "attention/linear/state_walk.h"
#include "attention/thread_scratch.h"

namespace longship {

template <class A>
DeltaForward<A>::DeltaForward(const Context& ctx, LinearProblem problem)
    : problem_(std::move(problem)),
      inverses_(ctx, problem_.grid, problem_.num_heads),
      scores_(ctx, problem_.grid, problem_.num_heads) {}

template <class A>
AffineSummary DeltaForward<A>::summary(Context& ctx) {
  constexpr int64_t C = LinearProblem::kChunkSize;
  const int64_t N = problem_.num_cut(), H = problem_.num_heads, K = problem_.key_size,
                V = problem_.value_size;
  const AffineSummary summary{.transition = Transition::kDense,
                              .m = ctx.zeros({N, H, K, K}, problem_.sums),
                              .b_NHKV = ctx.empty(problem_.states_shape(), problem_.sums)};
  if (N == 0) return summary;
  compute_factors<A>(ctx, problem_, {.inverses = &inverses_});
  has_inverses_ = true;
  const int64_t widest = std::max(K, V);
  const ThreadScratch<A> scratch(
      ctx, {DeltaChunk<A>::workspace_size(problem_), PanelMatrix<A>::size(K, widest),
            PanelMatrix<A>::size(C, widest)});
  auto walk_to_end = [&](const StateWalk& walk, bool is_b) {
    DeltaChunk<A> work(problem_, scratch.part(0));
    const PanelMatrix<A> state(scratch.part(1), K, walk.columns.count);
    state.fill_zero();
    for (int64_t j = 0; !is_b && j < walk.columns.count; ++j)
      state.at(walk.columns.first + j, j) = 1;
    for (int64_t c = problem_.grid.first_chunk(walk.segment);
         c < problem_.grid.first_chunk(walk.segment + 1); ++c) {
      work.begin(c, walk.head);
      const PanelMatrix<A> values(scratch.part(2), work.length(), walk.columns.count);
      const TensorRows v = work.rows(problem_.input.v_THV).from_column(walk.columns.first);
      work.write_values(inverses_.at(c, walk.head), state, is_b ? &v : nullptr, values);
      work.advance(values, state);
    }
    const Tensor& to = is_b ? summary.b_NHKV : summary.m;
    store_rows(state, A{1}, state_rows(problem_, to, walk.segment, walk.head, walk.columns.first));
  };
  for_each_walk<A>(ctx, problem_, Walked::kCut, V,
                   [&](const StateWalk& walk) { walk_to_end(walk, true); });
  for_each_walk<A>(ctx, problem_, Walked::kCut, K, [&](const StateWalk& walk) {
    // Nothing precedes the start of a document, so its M is never applied.
    if (problem_.segments[static_cast<size_t>(walk.segment)].position > 0) walk_to_end(walk, false);
  });
  return summary;
}

template <class A>
void DeltaForward<A>::intra(Context& ctx) {
  compute_factors<A>(ctx, problem_,
                     {.inverses = has_inverses_ ? nullptr : &inverses_, .query_scores = &scores_});
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
  for_each_walk<A>(ctx, problem_, Walked::kAll, V, [&](const StateWalk& walk) {
    DeltaChunk<A> work(problem_, scratch.part(0));
    const PanelMatrix<A> state(scratch.part(1), K, walk.columns.count);
    load_state(problem_, states_NHKV, walk.segment, walk.head, state, walk.columns.first);
    for (int64_t c = problem_.grid.first_chunk(walk.segment);
         c < problem_.grid.first_chunk(walk.segment + 1); ++c) {
      work.begin(c, walk.head);
      const LinearInput& input = problem_.input;
      work.fetch_meanwhile(c + 1, {&input.k_TGK, &input.v_THV, &input.q_TGK});
      const PanelMatrix<A> values(scratch.part(2), work.length(), walk.columns.count);
      const PanelMatrix<A> out(scratch.part(3), work.length(), walk.columns.count);
      const TensorRows v = work.rows(problem_.input.v_THV).from_column(walk.columns.first);
      work.write_values(inverses_.at(c, walk.head), state, &v, values);
      multiply(scores_.at(c, walk.head), values, out, {.add = false, .lower_x = true});
      work.read_state(state, out);
      work.advance(values, state);
      store_rows(out, A{1}, work.rows(o_THV).from_column(walk.columns.first));
    }
  });
  return o_THV;
}

template class DeltaForward<float>;
template class DeltaForward<double>;

}  // namespace longship
