#include "attention/linear/decay_forward.h"

#include "attention/linear/decay_summary.h"
#include "attention/linear/linear_chunk.h"
#include "attention/linear/segment_state.h"
#include "attention/thread_scratch.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

constexpr int64_t kC = LinearProblem::kChunkSize;

}  // namespace

template <class A>
DecayForward<A>::DecayForward(const Context& ctx, LinearProblem problem)
    : problem_(std::move(problem)),
      local_outputs_(ctx, problem_.grid, problem_.num_heads, problem_.value_size) {}

template <class A>
Tensor DecayForward<A>::zero_states(const Context& ctx) const {
  return ctx.zeros(problem_.states_shape(), problem_.sums);
}

template <class A>
AffineSummary DecayForward<A>::summary(Context& ctx) {
  const AffineSummary summary = decay_summary<A>(ctx, problem_);
  walk_to_end(ctx, {.count = problem_.num_cut()}, {}, summary.b_NHKV);
  return summary;
}

template <class A>
void DecayForward<A>::walk(const Context& ctx, int64_t row, const Tensor& in_HKV,
                           const Tensor& out_HKV) {
  walk_to_end(ctx, {row, 1}, as_one_row(in_HKV), as_one_row(out_HKV));
}

template <class A>
void DecayForward<A>::walk_to_end(const Context& ctx, const CutRows& rows, const Tensor& in_NHKV,
                                  const Tensor& out_NHKV) const {
  const int64_t K = problem_.key_size, V = problem_.value_size;
  const ThreadScratch<A> scratch(ctx, {LinearChunk<A>::workspace_size(problem_),
                                       PanelMatrix<A>::size(K, V), PanelMatrix<A>::size(kC, V)});
  for_each_cut_walk<A>(ctx, problem_, rows, V, [&](int64_t row, const StateWalk& walk) {
    LinearChunk<A> work(problem_, scratch.part(0));
    const PanelMatrix<A> state(scratch.part(1), K, walk.columns.count);
    load_state(in_NHKV, row, walk.head, walk.columns.first, state);
    for (int64_t c = problem_.grid.first_chunk(walk.segment);
         c < problem_.grid.first_chunk(walk.segment + 1); ++c) {
      work.begin(c, walk.head);
      const PanelMatrix<A> v(scratch.part(2), work.length(), walk.columns.count);
      load_rows(work.rows(problem_.input.v_THV).from_column(walk.columns.first), A{1}, v);
      work.advance(v, state);
    }
    store_rows(state, A{1}, state_matrix(out_NHKV, row, walk.head, walk.columns.first));
  });
}

template <class A>
void DecayForward<A>::intra(Context& ctx) {
  const int64_t H = problem_.num_heads, V = problem_.value_size;
  const ThreadScratch<A> scratch(ctx, {LinearChunk<A>::workspace_size(problem_),
                                       PanelMatrix<A>::size(kC, kC), PanelMatrix<A>::size(kC, V)});
  parallel_for_dynamic(ctx, problem_.grid.num_chunks() * H, [&](int64_t index) {
    const int64_t chunk = index / H, head = index % H;
    LinearChunk<A> work(problem_, scratch.part(0));
    work.begin(chunk, head);
    const PanelMatrix<A> scores(scratch.part(1), work.length(), work.length()),
        v(scratch.part(2), work.length(), V);
    work.query_scores(scores);
    load_rows(work.rows(problem_.input.v_THV), A{1}, v);
    multiply(scores, v, local_outputs_.at(chunk, head), {.add = false, .lower_x = true});
  });
}

template <class A>
Tensor DecayForward<A>::outputs(Context& ctx, const Tensor& states_NHKV) {
  const int64_t H = problem_.num_heads, K = problem_.key_size, V = problem_.value_size;
  LinearProblem::check_tensor("states", states_NHKV, problem_.states_shape(), problem_.sums);
  const Tensor o_THV = ctx.empty({problem_.num_tokens, H, V}, problem_.input.v_THV.dtype());
  const ThreadScratch<A> scratch(ctx, {LinearChunk<A>::workspace_size(problem_),
                                       PanelMatrix<A>::size(K, V), PanelMatrix<A>::size(kC, V)});
  for_each_walk<A>(ctx, problem_, V, [&](const StateWalk& walk) {
    LinearChunk<A> work(problem_, scratch.part(0));
    const PanelMatrix<A> state(scratch.part(1), K, walk.columns.count);
    load_state(problem_, states_NHKV, walk.segment, walk.head, state, walk.columns.first);
    for (int64_t c = problem_.grid.first_chunk(walk.segment);
         c < problem_.grid.first_chunk(walk.segment + 1); ++c) {
      work.begin(c, walk.head);
      const LinearInput& input = problem_.input;
      work.fetch_meanwhile(c + 1, {&input.k_TGK, &input.q_TGK, &input.v_THV});
      const PanelMatrix<A> v(scratch.part(2), work.length(), walk.columns.count),
          out =
              local_outputs_.at(c, walk.head).column_range(walk.columns.first, walk.columns.count);
      work.read_state(state, out);
      store_rows(out, A{1}, work.rows(o_THV).from_column(walk.columns.first));
      load_rows(work.rows(problem_.input.v_THV).from_column(walk.columns.first), A{1}, v);
      work.advance(v, state);
    }
  });
  return o_THV;
}

template class DecayForward<float>;
template class DecayForward<double>;

}  // namespace longship
