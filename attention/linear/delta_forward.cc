#include "attention/linear/delta_forward.h"

#include "attention/linear/delta_chunk.h"
#include "attention/linear/delta_factors.h"
#include "attention/linear/segment_state.h"

namespace longship {

template <class A>
DeltaForward<A>::DeltaForward(const Context& ctx, LinearProblem problem)
    : problem_(std::move(problem)),
      inverses_(ctx, problem_.grid, problem_.num_heads),
      scores_(ctx, problem_.grid, problem_.num_heads) {}

template <class A>
Tensor DeltaForward<A>::zero_states(const Context& ctx) const {
  return ctx.zeros(problem_.states_shape(), problem_.sums);
}

template <class A>
void DeltaForward<A>::make_inverses(const Context& ctx) {
  if (!has_inverses_) compute_factors<A>(ctx, problem_, {.inverses = &inverses_});
  has_inverses_ = true;
}

template <class A>
AffineSummary DeltaForward<A>::summary(Context& ctx) {
  const int64_t N = problem_.num_cut(), H = problem_.num_heads, K = problem_.key_size;
  const AffineSummary summary{.transition = Transition::kDense,
                              .m = ctx.zeros({N, H, K, K}, problem_.sums),
                              .b_NHKV = ctx.empty(problem_.states_shape(), problem_.sums)};
  if (N == 0) return summary;
  make_inverses(ctx);
  walk_to_end(ctx, {.count = N}, {}, summary.b_NHKV);
  walk_transitions(ctx, summary.m);
  return summary;
}

template <class A>
void DeltaForward<A>::walk(const Context& ctx, int64_t row, const Tensor& in_HKV,
                           const Tensor& out_HKV) {
  make_inverses(ctx);
  walk_to_end(ctx, {row, 1}, as_one_row(in_HKV), as_one_row(out_HKV));
}

template <class A>
ThreadScratch<A> DeltaForward<A>::walk_scratch(const Context& ctx) const {
  const int64_t K = problem_.key_size, widest = std::max(K, problem_.value_size);
  return ThreadScratch<A>(ctx,
                          {DeltaChunk<A>::workspace_size(problem_), PanelMatrix<A>::size(K, widest),
                           PanelMatrix<A>::size(LinearProblem::kChunkSize, widest)});
}

template <class A>
void DeltaForward<A>::walk_to_end(const Context& ctx, const CutRows& rows, const Tensor& in_NHKV,
                                  const Tensor& out_NHKV) const {
  const ThreadScratch<A> scratch = walk_scratch(ctx);
  for_each_cut_walk<A>(
      ctx, problem_, rows, problem_.value_size, [&](int64_t row, const StateWalk& walk) {
        const PanelMatrix<A> state(scratch.part(1), problem_.key_size, walk.columns.count);
        load_state(in_NHKV, row, walk.head, walk.columns.first, state);
        advance(scratch, walk, true, state);
        store_rows(state, A{1}, state_matrix(out_NHKV, row, walk.head, walk.columns.first));
      });
}

template <class A>
void DeltaForward<A>::walk_transitions(const Context& ctx, const Tensor& m_NHKK) const {
  const int64_t K = problem_.key_size;
  const ThreadScratch<A> scratch = walk_scratch(ctx);
  for_each_cut_walk<A>(
      ctx, problem_, {.count = problem_.num_cut()}, K, [&](int64_t row, const StateWalk& walk) {
        // Nothing precedes the start of a document, so its M is never applied.
        if (problem_.segments[static_cast<size_t>(walk.segment)].position == 0) return;
        const PanelMatrix<A> state(scratch.part(1), K, walk.columns.count);
        state.fill_zero();
        for (int64_t j = 0; j < walk.columns.count; ++j) state.at(walk.columns.first + j, j) = 1;
        advance(scratch, walk, false, state);
        store_rows(state, A{1}, state_matrix(m_NHKK, row, walk.head, walk.columns.first));
      });
}

template <class A>
void DeltaForward<A>::advance(const ThreadScratch<A>& scratch, const StateWalk& walk,
                              bool writes_values, const PanelMatrix<A>& state) const {
  DeltaChunk<A> work(problem_, scratch.part(0));
  for (int64_t c = problem_.grid.first_chunk(walk.segment);
       c < problem_.grid.first_chunk(walk.segment + 1); ++c) {
    work.begin(c, walk.head);
    const PanelMatrix<A> values(scratch.part(2), work.length(), walk.columns.count);
    const TensorRows v = work.rows(problem_.input.v_THV).from_column(walk.columns.first);
    work.write_values(inverses_.at(c, walk.head), state, writes_values ? &v : nullptr, values);
    work.advance(values, state);
  }
}

template <class A>
void DeltaForward<A>::intra(Context& ctx) {
  compute_factors<A>(ctx, problem_,
                     {.inverses = has_inverses_ ? nullptr : &inverses_, .query_scores = &scores_});
  has_inverses_ = true;
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
  for_each_walk<A>(ctx, problem_, V, [&](const StateWalk& walk) {
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
