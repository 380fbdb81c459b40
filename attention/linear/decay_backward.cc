#include "attention/linear/decay_backward.h"

#include "attention/linear/decay_summary.h"
#include "attention/linear/query_scores.h"

namespace longship {
namespace {

constexpr int64_t kC = LinearProblem::kChunkSize;

// The parts of the scratch.
enum Part : size_t { kWork, kOutputGradient, kValues, kValueGradient, kKeyGradient, kWorkspace };

}  // namespace

template <class A>
ThreadScratch<A> DecayBackward<A>::make_scratch(const Context& ctx) const {
  const int64_t K = problem_.key_size, V = problem_.value_size;
  const int64_t rows_K = PanelMatrix<A>::size(kC, K), rows_V = PanelMatrix<A>::size(kC, V);
  return ThreadScratch<A>(ctx, {LinearChunk<A>::workspace_size(problem_), rows_V, rows_V, rows_V,
                                rows_K, GradientSums<A>::workspace_size(problem_)});
}

template <class A>
DecayBackward<A>::DecayBackward(const Context& ctx, LinearProblem problem, Tensor states_NHKV,
                                Tensor do_THV)
    : problem_(std::move(problem)),
      states_NHKV_(std::move(states_NHKV)),
      do_THV_(std::move(do_THV)),
      scores_(ctx, problem_.grid, problem_.num_heads),
      sums_(ctx, problem_),
      spans_(ctx, problem_, states_NHKV_, sums_.has_gates()) {
  const Tensor& v = problem_.input.v_THV;
  LinearProblem::check_tensor("states", states_NHKV_, problem_.states_shape(), problem_.sums);
  LinearProblem::check_tensor("do", do_THV_, v.shape(), v.dtype());
}

template <class A>
Tensor DecayBackward<A>::zero_states(const Context& ctx) const {
  return ctx.zeros(problem_.states_shape(), problem_.sums);
}

template <class A>
AffineSummary DecayBackward<A>::summary(Context& ctx) {
  const AffineSummary summary = decay_summary<A>(ctx, problem_);
  walk_to_start(ctx, {.count = problem_.num_cut()}, {}, summary.b_NHKV);
  return summary;
}

template <class A>
void DecayBackward<A>::walk(const Context& ctx, int64_t row, const Tensor& in_HKV,
                            const Tensor& out_HKV) {
  walk_to_start(ctx, {row, 1}, as_one_row(in_HKV), as_one_row(out_HKV));
}

template <class A>
void DecayBackward<A>::walk_to_start(const Context& ctx, const CutRows& rows, const Tensor& in_NHKV,
                                     const Tensor& out_NHKV) const {
  const int64_t K = problem_.key_size, V = problem_.value_size;
  const ThreadScratch<A> scratch(ctx, {LinearChunk<A>::workspace_size(problem_),
                                       PanelMatrix<A>::size(K, V), PanelMatrix<A>::size(kC, V)});
  for_each_cut_walk<A>(ctx, problem_, rows, V, [&](int64_t row, const StateWalk& walk) {
    // Nothing precedes the start of a document, so nothing is sent back from it.
    if (problem_.segments[static_cast<size_t>(walk.segment)].position == 0) return;
    const auto& [first_column, num_columns] = walk.columns;
    LinearChunk<A> work(problem_, scratch.part(0));
    const PanelMatrix<A> dstate(scratch.part(1), K, num_columns);
    load_state(in_NHKV, row, walk.head, first_column, dstate);
    for (int64_t c = problem_.grid.first_chunk(walk.segment + 1) - 1;
         c >= problem_.grid.first_chunk(walk.segment); --c) {
      work.begin(c, walk.head);
      const PanelMatrix<A> d_o(scratch.part(2), work.length(), num_columns);
      load_rows(work.rows(do_THV_).from_column(first_column), A{1}, d_o);
      work.retreat(&d_o, dstate);
    }
    store_rows(dstate, A{1}, state_matrix(out_NHKV, row, walk.head, first_column));
  });
}

template <class A>
void DecayBackward<A>::advance(const ThreadScratch<A>& scratch, int64_t chunk, int64_t head,
                               const StateColumns& columns, const PanelMatrix<A>& state) const {
  LinearChunk<A> work(problem_, scratch.part(kWork));
  work.begin(chunk, head);
  work.fetch_meanwhile(chunk + 1, {&problem_.input.k_TGK, &problem_.input.v_THV});
  const PanelMatrix<A> v(scratch.part(kValues), work.length(), columns.count);
  load_rows(work.rows(problem_.input.v_THV).from_column(columns.first), A{1}, v);
  work.advance(v, state);
}

template <class A>
void DecayBackward<A>::intra(Context& ctx) {
  compute_query_scores(ctx, problem_, scores_);
  const ThreadScratch<A> scratch = make_scratch(ctx);
  spans_.forward(
      ctx,
      [&](int64_t c, int64_t head, const StateColumns& columns, const PanelMatrix<A>& state) {
        advance(scratch, c, head, columns, state);
      },
      [&](int64_t c, int64_t head, const PanelMatrix<A>& state) {
        LinearChunk<A> work(problem_, scratch.part(kWork));
        work.begin(c, head);
        const PanelMatrix<A> d_o(scratch.part(kOutputGradient), work.length(), problem_.value_size),
            v(scratch.part(kValues), work.length(), problem_.value_size);
        load_rows(work.rows(do_THV_), A{1}, d_o);
        load_rows(work.rows(problem_.input.v_THV), A{1}, v);
        sums_.add_query_gradients(work, scores_.at(c, head), d_o, v, state,
                                  scratch.part(kWorkspace));
      });
}

template <class A>
LinearGradients DecayBackward<A>::gradients(Context& ctx, const Tensor& grad_states_NHKV) {
  LinearProblem::check_tensor("gradient of states", grad_states_NHKV, problem_.states_shape(),
                              problem_.sums);
  const Tensor dv_THV =
      ctx.empty({problem_.num_tokens, problem_.num_heads, problem_.value_size}, problem_.sums);
  const ThreadScratch<A> scratch = make_scratch(ctx);
  spans_.backward(
      ctx, grad_states_NHKV,
      [&](int64_t c, int64_t head, const StateColumns& columns, const PanelMatrix<A>& state) {
        advance(scratch, c, head, columns, state);
      },
      [&](int64_t c, int64_t head, const StateColumns& columns, const PanelMatrix<A>& dstate) {
        LinearChunk<A> work(problem_, scratch.part(kWork));
        work.begin(c, head);
        work.fetch_meanwhile(c - 1, {&problem_.input.k_TGK, &do_THV_, &problem_.input.q_TGK});
        const PanelMatrix<A> d_o(scratch.part(kOutputGradient), work.length(), columns.count);
        load_rows(work.rows(do_THV_).from_column(columns.first), A{1}, d_o);
        work.retreat(&d_o, dstate);
      },
      [&](int64_t c, int64_t head, const PanelMatrix<A>* state, const PanelMatrix<A>& dstate) {
        LinearChunk<A> work(problem_, scratch.part(kWork));
        work.begin(c, head);
        key_gradients(scratch, work, scores_.at(c, head), state, dstate, dv_THV);
      });
  return {.dq_TGK = sums_.dq_TGK(ctx),
          .dk_TGK = sums_.dk_TGK(ctx),
          .dv_THV = dv_THV,
          .dgate = sums_.dgate(),
          .dbeta_TH = {}};
}

template <class A>
void DecayBackward<A>::key_gradients(const ThreadScratch<A>& scratch, const LinearChunk<A>& work,
                                     const PanelMatrix<A>& scores, const PanelMatrix<A>* state,
                                     const PanelMatrix<A>& dstate, const Tensor& dv_THV) const {
  const int64_t length = work.length(), K = problem_.key_size, V = problem_.value_size;
  const PanelMatrix<A> d_o(scratch.part(kOutputGradient), length, V),
      v(scratch.part(kValues), length, V), dv(scratch.part(kValueGradient), length, V),
      dk(scratch.part(kKeyGradient), length, K);
  load_rows(work.rows(do_THV_), A{1}, d_o);
  load_rows(work.rows(problem_.input.v_THV), A{1}, v);
  work.value_gradients(scores, &d_o, dstate, dv);
  store_rows(dv, A{1}, work.rows(dv_THV));
  A* const workspace = scratch.part(kWorkspace);
  const GateGradient<A> dg = sums_.gate_gradient(work, workspace);
  sums_.state_gradients(work, v, state, dstate, workspace, dk, dg);
  sums_.add_key_gradients(work, dk, dg, workspace);
}

template class DecayBackward<float>;
template class DecayBackward<double>;

}  // namespace longship
