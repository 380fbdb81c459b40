#include "attention/linear/delta_backward.h"

#include "attention/linear/delta_chunk.h"
#include "attention/linear/delta_factors.h"
#include "attention/linear/panel_algebra.h"

namespace longship {
namespace {

constexpr int64_t kC = LinearProblem::kChunkSize;

}  // namespace

template <class A>
ThreadScratch<A> DeltaBackward<A>::make_scratch(const Context& ctx) const {
  using Matrix = PanelMatrix<A>;
  const int64_t rows_K = Matrix::size(kC, problem_.key_size),
                rows_V = Matrix::size(kC, problem_.value_size);
  return ThreadScratch<A>(
      ctx, {DeltaChunk<A>::workspace_size(problem_), rows_V, rows_V, rows_K, rows_K, rows_K, rows_K,
            Matrix::size(kC, kC), GradientSums<A>::workspace_size(problem_)});
}

namespace {

// The parts of the scratch.
enum Part : size_t {
  kWork,
  kOutputGradient,
  kInputValues,
  kRowsA,
  kRowsB,
  kRowsC,
  kRowsD,
  kScores,
  kWorkspace
};

}  // namespace

template <class A>
DeltaBackward<A>::DeltaBackward(const Context& ctx, LinearProblem problem, Tensor states_NHKV,
                                Tensor do_THV)
    : problem_(std::move(problem)),
      states_NHKV_(std::move(states_NHKV)),
      do_THV_(std::move(do_THV)),
      inverses_(ctx, problem_.grid, problem_.num_heads),
      key_scores_(ctx, problem_.grid, problem_.num_heads),
      query_scores_(ctx, problem_.grid, problem_.num_heads),
      values_(ctx, problem_.grid, problem_.num_heads, problem_.value_size),
      spans_(ctx, problem_, states_NHKV_, true),
      sums_(ctx, problem_) {
  const Tensor& v = problem_.input.v_THV;
  LinearProblem::check_tensor("states", states_NHKV_, problem_.states_shape(), problem_.sums);
  LinearProblem::check_tensor("do", do_THV_, v.shape(), v.dtype());
  compute_factors<A>(
      ctx, problem_,
      {.inverses = &inverses_, .key_scores = &key_scores_, .query_scores = &query_scores_});
}

template <class A>
Tensor DeltaBackward<A>::zero_states(const Context& ctx) const {
  return ctx.zeros(problem_.states_shape(), problem_.sums);
}

template <class A>
AffineSummary DeltaBackward<A>::summary(Context& ctx) {
  const int64_t N = problem_.num_cut(), H = problem_.num_heads, K = problem_.key_size;
  const AffineSummary summary{.transition = Transition::kDense,
                              .m = ctx.zeros({N, H, K, K}, problem_.sums),
                              .b_NHKV = zero_states(ctx)};
  walk_to_start(ctx, {.count = N}, {}, summary.b_NHKV);
  walk_transitions(ctx, summary.m);
  return summary;
}

template <class A>
void DeltaBackward<A>::walk(const Context& ctx, int64_t row, const Tensor& in_HKV,
                            const Tensor& out_HKV) {
  walk_to_start(ctx, {row, 1}, as_one_row(in_HKV), as_one_row(out_HKV));
}

template <class A>
ThreadScratch<A> DeltaBackward<A>::walk_scratch(const Context& ctx) const {
  const int64_t K = problem_.key_size, V = problem_.value_size, widest = std::max(K, V);
  return ThreadScratch<A>(ctx, {DeltaChunk<A>::workspace_size(problem_),
                                PanelMatrix<A>::size(K, widest), PanelMatrix<A>::size(kC, widest),
                                PanelMatrix<A>::size(kC, V), PanelMatrix<A>::size(K, K)});
}

template <class A>
void DeltaBackward<A>::walk_to_start(const Context& ctx, const CutRows& rows, const Tensor& in_NHKV,
                                     const Tensor& out_NHKV) const {
  const ThreadScratch<A> scratch = walk_scratch(ctx);
  for_each_cut_walk<A>(
      ctx, problem_, rows, problem_.value_size, [&](int64_t row, const StateWalk& walk) {
        // Nothing precedes the start of a document, so nothing is sent back from it.
        if (is_first(walk)) return;
        const PanelMatrix<A> dstate(scratch.part(1), problem_.key_size, walk.columns.count);
        load_state(in_NHKV, row, walk.head, walk.columns.first, dstate);
        retreat(scratch, walk, true, dstate);
        store_rows(dstate, A{1}, state_matrix(out_NHKV, row, walk.head, walk.columns.first));
      });
}

template <class A>
void DeltaBackward<A>::walk_transitions(const Context& ctx, const Tensor& m_NHKK) const {
  const int64_t K = problem_.key_size;
  const ThreadScratch<A> scratch = walk_scratch(ctx);
  for_each_cut_walk<A>(ctx, problem_, {.count = problem_.num_cut()}, K,
                       [&](int64_t row, const StateWalk& walk) {
                         if (is_first(walk)) return;
                         const auto& [first_column, num_columns] = walk.columns;
                         const PanelMatrix<A> dstate(scratch.part(1), K, num_columns);
                         dstate.fill_zero();
                         for (int64_t j = 0; j < num_columns; ++j)
                           dstate.at(first_column + j, j) = 1;
                         retreat(scratch, walk, false, dstate);
                         const PanelMatrix<A> m(scratch.part(4), num_columns, K);
                         transpose_panels(dstate, m);
                         TensorRows to = state_matrix(m_NHKK, row, walk.head, 0);
                         to.first += first_column * K;
                         store_rows(m, A{1}, to);
                       });
}

template <class A>
void DeltaBackward<A>::retreat(const ThreadScratch<A>& scratch, const StateWalk& walk,
                               bool has_outputs, const PanelMatrix<A>& dstate) const {
  const auto& [first_column, num_columns] = walk.columns;
  DeltaChunk<A> work(problem_, scratch.part(0));
  for (int64_t c = problem_.grid.first_chunk(walk.segment + 1) - 1;
       c >= problem_.grid.first_chunk(walk.segment); --c) {
    work.begin(c, walk.head);
    const PanelMatrix<A> x(scratch.part(2), work.length(), num_columns);
    const PanelMatrix<A> d_o(scratch.part(3), work.length(), num_columns);
    if (has_outputs) load_rows(work.rows(do_THV_).from_column(first_column), A{1}, d_o);
    const PanelMatrix<A>* outputs = has_outputs ? &d_o : nullptr;
    work.error_gradients(inverses_.at(c, walk.head), query_scores_.at(c, walk.head), outputs,
                         dstate, x);
    work.retreat(x, outputs, dstate);
  }
}

template <class A>
void DeltaBackward<A>::intra(Context& ctx) {
  const ThreadScratch<A> scratch = make_scratch(ctx);
  spans_.forward(
      ctx,
      [&](int64_t c, int64_t head, const StateColumns& columns, const PanelMatrix<A>& state) {
        DeltaChunk<A> work(problem_, scratch.part(kWork));
        work.begin(c, head);
        work.fetch_meanwhile(c + 1, {&problem_.input.k_TGK, &problem_.input.v_THV});
        const PanelMatrix<A> values =
            values_.at(c, head).column_range(columns.first, columns.count);
        const TensorRows v = work.rows(problem_.input.v_THV).from_column(columns.first);
        work.write_values(inverses_.at(c, head), state, &v, values);
        work.advance(values, state);
      },
      [&](int64_t c, int64_t head, const PanelMatrix<A>& state) {
        DeltaChunk<A> work(problem_, scratch.part(kWork));
        work.begin(c, head);
        const PanelMatrix<A> d_o(scratch.part(kOutputGradient), work.length(), problem_.value_size);
        load_rows(work.rows(do_THV_), A{1}, d_o);
        sums_.add_query_gradients(work, query_scores_.at(c, head), d_o, values_.at(c, head), state,
                                  scratch.part(kWorkspace));
      });
}

template <class A>
LinearGradients DeltaBackward<A>::gradients(Context& ctx, const Tensor& grad_states_NHKV) {
  const int64_t H = problem_.num_heads, V = problem_.value_size;
  LinearProblem::check_tensor("gradient of states", grad_states_NHKV, problem_.states_shape(),
                              problem_.sums);
  LinearGradients gradients{.dq_TGK = {},
                            .dk_TGK = {},
                            .dv_THV = ctx.empty({problem_.num_tokens, H, V}, problem_.sums),
                            .dgate = sums_.dgate(),
                            .dbeta_TH = ctx.empty({problem_.num_tokens, H}, problem_.sums)};
  const ThreadScratch<A> scratch = make_scratch(ctx);
  spans_.backward(
      ctx, grad_states_NHKV,
      [&](int64_t c, int64_t head, const StateColumns& columns, const PanelMatrix<A>& state) {
        DeltaChunk<A> work(problem_, scratch.part(kWork));
        work.begin(c, head);
        work.advance(values_.at(c, head).column_range(columns.first, columns.count), state);
      },
      [&](int64_t c, int64_t head, const StateColumns& columns, const PanelMatrix<A>& dstate) {
        DeltaChunk<A> work(problem_, scratch.part(kWork));
        work.begin(c, head);
        work.fetch_meanwhile(c - 1, {&problem_.input.k_TGK, &do_THV_, &problem_.input.q_TGK});
        const PanelMatrix<A> d_o(scratch.part(kOutputGradient), work.length(), columns.count),
            x = spans_.rows(c, head).column_range(columns.first, columns.count);
        load_rows(work.rows(do_THV_).from_column(columns.first), A{1}, d_o);
        work.error_gradients(inverses_.at(c, head), query_scores_.at(c, head), &d_o, dstate, x);
        work.retreat(x, &d_o, dstate);
      },
      [&](int64_t c, int64_t head, const PanelMatrix<A>* state, const PanelMatrix<A>& dstate) {
        DeltaChunk<A> work(problem_, scratch.part(kWork));
        work.begin(c, head);
        key_gradients(scratch, work, c, head, *state, dstate, gradients);
      });
  gradients.dq_TGK = sums_.dq_TGK(ctx);
  gradients.dk_TGK = sums_.dk_TGK(ctx);
  return gradients;
}

template <class A>
void DeltaBackward<A>::key_gradients(const ThreadScratch<A>& scratch, const DeltaChunk<A>& work,
                                     int64_t chunk, int64_t head, const PanelMatrix<A>& state,
                                     const PanelMatrix<A>& dstate,
                                     const LinearGradients& gradients) const {
  const int64_t length = work.length(), K = problem_.key_size, V = problem_.value_size;
  const PanelMatrix<A> x = spans_.rows(chunk, head), values = values_.at(chunk, head),
                       v(scratch.part(kInputValues), length, V),
                       to_errors(scratch.part(kRowsA), length, K),
                       from_rows(scratch.part(kRowsB), length, K),
                       from_columns(scratch.part(kRowsC), length, K),
                       to_state(scratch.part(kRowsD), length, K),
                       dscores(scratch.part(kScores), length, length);
  const PanelMatrix<A> key_scores = key_scores_.at(chunk, head);
  A* const workspace = scratch.part(kWorkspace);
  const ChunkDecay<A>& decay = work.decay();
  multiply_by_transpose(x, values, workspace, dscores,
                        {.scale = A{-1}, .add = false, .lower_out = true});
  keep_below_diagonal<A>(dscores, nullptr);

  // Y = -X S^T, the gradient of beta k e^G.
  multiply_by_transpose(x, state, workspace, to_errors, {.scale = A{-1}, .add = false});
  decay.decay_from_start(to_errors);
  load_rows(work.rows(problem_.input.v_THV), A{1}, v);
  const TensorRows dbeta = work.rows(gradients.dbeta_TH);
  for (int64_t r = 0; r < length; ++r)
    dbeta.tensor.template data<A>()[dbeta.first + r * dbeta.step] =
        row_product(x, v, r) + row_product(to_errors, work.k(), r) +
        row_product(dscores, key_scores, r);
  dscores.scale_rows(work.beta());
  to_errors.scale_rows(work.beta());

  const GateGradient<A> dg = sums_.gate_gradient(work, workspace);
  dg.add_from_start(work.k(), to_errors);
  dg.add_scores(key_scores, dscores);
  from_rows.fill_zero();
  from_columns.fill_zero();
  decay.score_gradients(dscores, work.k(), work.k(), from_rows, from_columns);
  dg.add_between(work.k(), from_rows, work.k(), from_columns);
  sums_.state_gradients(work, values, &state, dstate, workspace, to_state, dg);
  const PanelMatrix<A>& dk = from_columns;
  for (const PanelMatrix<A>* part : {&to_errors, &from_rows, &to_state}) add_rows(*part, dk);
  sums_.add_key_gradients(work, dk, dg, workspace);
  x.scale_rows(work.beta());
  store_rows(x, A{1}, work.rows(gradients.dv_THV));
}

template class DeltaBackward<float>;
template class DeltaBackward<double>;

}  // namespace longship
