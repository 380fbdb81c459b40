#include "attention/linear/delta_backward.h"

#include "attention/linear/delta_chunk.h"
#include "attention/linear/delta_factors.h"
#include "attention/thread_scratch.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

constexpr int64_t kC = DeltaProblem::kChunkSize;

// Sum over the columns of a(r, c) * b(r, c).
template <class A>
A row_product(const PanelMatrix<A>& a, const PanelMatrix<A>& b, int64_t r) {
  A sums[kPanelLanes<A>] = {};
  for (int64_t p = 0; p < a.num_panels(); ++p)
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) sums[i] += a.row(p, r)[i] * b.row(p, r)[i];
  A total = 0;
  for (A sum : sums) total += sum;
  return total;
}

template <class A>
A row_sum(const PanelMatrix<A>& a, int64_t r) {
  A total = 0;
  for (int64_t c = 0; c < a.columns; ++c) total += a.at(r, c);
  return total;
}

// Sets the elements on and above the diagonal to 0; their diagonal goes to `diagonal` if not null.
template <class A>
void keep_below_diagonal(const PanelMatrix<A>& x, A* diagonal) {
  for (int64_t r = 0; diagonal && r < x.rows; ++r) diagonal[r] = x.at(r, r);
  x.for_each_row([&](int64_t p, int64_t r, A* row) {
    constexpr int64_t W = kPanelLanes<A>;
    for (int64_t i = std::clamp<int64_t>(r - p * W, 0, W); i < W; ++i) row[i] = 0;
  });
}

// sum += sign * x y, element by element
template <class A>
void add_elements(A sign, const PanelMatrix<A>& x, const PanelMatrix<A>& y,
                  const PanelMatrix<A>& sum) {
  sum.for_each_row([&](int64_t p, int64_t r, A* out) {
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) out[i] += sign * x.row(p, r)[i] * y.row(p, r)[i];
  });
}

// sum_r += factor[r] x_r
template <class A>
void add_scaled_rows(const A* factor, const PanelMatrix<A>& x, const PanelMatrix<A>& sum) {
  sum.for_each_row([&](int64_t p, int64_t r, A* out) {
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) out[i] += factor[r] * x.row(p, r)[i];
  });
}

template <class A>
void add_rows(const PanelMatrix<A>& x, const PanelMatrix<A>& sum) {
  sum.for_each_row([&](int64_t p, int64_t r, A* out) {
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) out[i] += x.row(p, r)[i];
  });
}

// out = x y^T by way of `transposed`, which has room for y^T.
template <class A>
void multiply_by_transpose(const PanelMatrix<A>& x, const PanelMatrix<A>& y, A* transposed,
                           const PanelMatrix<A>& out, const ProductOptions<A>& options) {
  const PanelMatrix<A> y_transposed(transposed, y.columns, y.rows);
  transpose_panels(y, y_transposed);
  multiply(x, y_transposed, out, options);
}

// Sums the heads that share a key head, in ascending order.
template <class A>
Tensor sum_groups(const Context& ctx, const DeltaProblem& problem, const Tensor& heads_THK) {
  const int64_t G = problem.num_key_heads, K = problem.key_size, group = problem.num_heads / G;
  if (group == 1) return heads_THK;
  const Tensor sums_TGK = ctx.empty({problem.num_tokens, G, K}, problem.sums);
  const A* from = heads_THK.data<A>();
  A* to = sums_TGK.data<A>();
  parallel_for(ctx, problem.num_tokens * G, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::copy_n(from + row * group * K, K, to + row * K);
      for (int64_t h = 1; h < group; ++h)
        for (int64_t d = 0; d < K; ++d) to[row * K + d] += from[(row * group + h) * K + d];
    }
  });
  return sums_TGK;
}

}  // namespace

template <class A>
ThreadScratch<A> DeltaBackward<A>::make_scratch(const Context& ctx) const {
  using Matrix = PanelMatrix<A>;
  const int64_t K = problem_.key_size, V = problem_.value_size;
  const int64_t rows_K = Matrix::size(kC, K), rows_V = Matrix::size(kC, V);
  return ThreadScratch<A>(
      ctx, {DeltaChunk<A>::workspace_size(problem_), Matrix::size(K, std::max(K, V)),
            kStateStride * Matrix::size(K, V), rows_V, rows_V, rows_K, rows_K, rows_K, rows_K,
            Matrix::size(kC, kC), kC, std::max(Matrix::size(V, std::max(kC, K)), rows_V)});
}

namespace {

// The parts of the scratch.
enum Part : size_t {
  kWork,
  kState,
  kStates,
  kOutputGradient,
  kValueGradient,
  kRowsA,
  kRowsB,
  kRowsC,
  kRowsD,
  kScores,
  kDiagonal,
  kTransposed
};

}  // namespace

template <class A>
DeltaBackward<A>::DeltaBackward(const Context& ctx, DeltaProblem problem, Tensor states_NHKV,
                                Tensor do_THV)
    : problem_(std::move(problem)),
      states_NHKV_(std::move(states_NHKV)),
      do_THV_(std::move(do_THV)),
      inverses_(ctx, problem_.grid, problem_.num_heads),
      key_scores_(ctx, problem_.grid, problem_.num_heads),
      query_scores_(ctx, problem_.grid, problem_.num_heads),
      values_(ctx, problem_.grid, problem_.num_heads, problem_.value_size) {
  const Tensor& v = problem_.input.v_THV;
  DeltaProblem::check_tensor("states", states_NHKV_, problem_.states_shape(), problem_.sums);
  DeltaProblem::check_tensor("do", do_THV_, v.shape(), v.dtype());
  compute_inverses<A>(ctx, problem_, inverses_, &key_scores_);
  compute_query_scores<A>(ctx, problem_, query_scores_);
}

template <class A>
AffineSummary DeltaBackward<A>::summary(Context& ctx) {
  const int64_t N = problem_.num_segments(), H = problem_.num_heads, K = problem_.key_size,
                V = problem_.value_size;
  const AffineSummary summary{.transition = Transition::kDense,
                              .m = ctx.zeros({N, H, K, K}, problem_.sums),
                              .b_NHKV = ctx.zeros(problem_.states_shape(), problem_.sums)};
  const int64_t widest = std::max(K, V);
  const ThreadScratch<A> scratch(
      ctx,
      {DeltaChunk<A>::workspace_size(problem_), PanelMatrix<A>::size(K, widest),
       PanelMatrix<A>::size(kC, widest), PanelMatrix<A>::size(kC, V), PanelMatrix<A>::size(K, K)});
  parallel_for_dynamic(ctx, N * H * 2, [&](int64_t index) {
    const int64_t segment = index / (2 * H), head = index / 2 % H;
    const bool is_b = index % 2 == 0;
    // Nothing precedes the start of a document, so nothing is sent back from it.
    if (problem_.segments[static_cast<size_t>(segment)].position == 0) return;
    DeltaChunk<A> work(problem_, scratch.part(0));
    const PanelMatrix<A> dstate(scratch.part(1), K, is_b ? V : K);
    dstate.fill_zero();
    for (int64_t d = 0; !is_b && d < K; ++d) dstate.at(d, d) = 1;
    for (int64_t c = problem_.grid.first_chunk(segment + 1) - 1;
         c >= problem_.grid.first_chunk(segment); --c) {
      work.begin(c, head);
      const PanelMatrix<A> x(scratch.part(2), work.length(), dstate.columns);
      const PanelMatrix<A> d_o(scratch.part(3), work.length(), V);
      if (is_b) load_rows(work.rows(do_THV_), A{1}, d_o);
      const PanelMatrix<A>* outputs = is_b ? &d_o : nullptr;
      work.value_gradients(inverses_.at(c, head), query_scores_.at(c, head), outputs, dstate, x);
      work.retreat(x, outputs, dstate);
    }
    if (is_b) {
      store_rows(dstate, A{1}, {summary.b_NHKV, (segment * H + head) * K * V, V});
    } else {
      const PanelMatrix<A> m(scratch.part(4), K, K);
      transpose_panels(dstate, m);
      store_rows(m, A{1}, {summary.m, (segment * H + head) * K * K, K});
    }
  });
  return summary;
}

template <class A>
PanelMatrix<A> DeltaBackward<A>::kept_state(int64_t segment, int64_t chunk, int64_t head) const {
  const int64_t K = problem_.key_size, V = problem_.value_size;
  const int64_t kept = first_kept_[static_cast<size_t>(segment)] +
                       (chunk - problem_.grid.first_chunk(segment)) / kStateStride;
  return {kept_states_.template data<A>() +
              (kept * problem_.num_heads + head) * PanelMatrix<A>::size(K, V),
          K, V};
}

template <class A>
void DeltaBackward<A>::intra(Context& ctx) {
  const int64_t T = problem_.num_tokens, H = problem_.num_heads, K = problem_.key_size,
                V = problem_.value_size;
  int64_t num_kept = 0;
  for (int64_t n = 0; n < problem_.num_segments(); ++n) {
    first_kept_.push_back(num_kept);
    const int64_t chunks = problem_.grid.first_chunk(n + 1) - problem_.grid.first_chunk(n);
    num_kept += (chunks + kStateStride - 1) / kStateStride;
  }
  kept_states_ = ctx.empty({num_kept * H * PanelMatrix<A>::size(K, V)}, problem_.sums);
  dq_THK_ = ctx.empty({T, H, K}, problem_.sums);
  dk_THK_ = ctx.empty({T, H, K}, problem_.sums);
  const Tensor& gate = problem_.input.gate;
  if (gate.defined() && gate.rank() > 1) dgate_ = ctx.zeros(gate.shape(), problem_.sums);

  const ThreadScratch<A> scratch = make_scratch(ctx);
  parallel_for_dynamic(ctx, problem_.num_segments() * H, [&](int64_t index) {
    const int64_t segment = index / H, head = index % H;
    const int64_t first = problem_.grid.first_chunk(segment);
    DeltaChunk<A> work(problem_, scratch.part(kWork));
    const PanelMatrix<A> state(scratch.part(kState), K, V);
    load_rows({states_NHKV_, index * K * V, V}, A{1}, state);
    for (int64_t c = first; c < problem_.grid.first_chunk(segment + 1); ++c) {
      if ((c - first) % kStateStride == 0) kept_state(segment, c, head).copy_from(state);
      work.begin(c, head);
      const PanelMatrix<A> values = values_.at(c, head);
      work.write_values(inverses_.at(c, head), state, true, values);
      query_gradients(scratch, work, c, head, state);
      work.advance(values, state);
    }
  });
}

template <class A>
void DeltaBackward<A>::query_gradients(const ThreadScratch<A>& scratch, const DeltaChunk<A>& work,
                                       int64_t chunk, int64_t head,
                                       const PanelMatrix<A>& state) const {
  const int64_t length = work.length(), K = problem_.key_size, V = problem_.value_size;
  const PanelMatrix<A> d_o(scratch.part(kOutputGradient), length, V),
      q(scratch.part(kRowsA), length, K), dq(scratch.part(kRowsB), length, K),
      dk(scratch.part(kRowsC), length, K), dG(scratch.part(kRowsD), length, K),
      dscores(scratch.part(kScores), length, length);
  A *const transposed = scratch.part(kTransposed), *const diagonal = scratch.part(kDiagonal);
  load_rows(work.rows(do_THV_), A{1}, d_o);
  work.load_q(q);
  multiply_by_transpose(d_o, values_.at(chunk, head), transposed, dscores,
                        {.add = false, .lower_out = true});
  keep_below_diagonal(dscores, diagonal);
  multiply_by_transpose(d_o, state, transposed, dq, {.add = false});
  work.decay().decay_from_start(dq);
  dk.fill_zero();
  work.decay().score_gradients(dscores, q, work.k(), dq, dk);
  if (dgate_.defined()) {
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
LinearGradients DeltaBackward<A>::gradients(Context& ctx, const Tensor& grad_states_NHKV) {
  const int64_t H = problem_.num_heads, K = problem_.key_size, V = problem_.value_size;
  DeltaProblem::check_tensor("gradient of states", grad_states_NHKV, problem_.states_shape(),
                             problem_.sums);
  LinearGradients gradients{.dq_TGK = {},
                            .dk_TGK = {},
                            .dv_THV = ctx.empty({problem_.num_tokens, H, V}, problem_.sums),
                            .dgate = dgate_,
                            .dbeta_TH = ctx.empty({problem_.num_tokens, H}, problem_.sums)};
  const ThreadScratch<A> scratch = make_scratch(ctx);
  parallel_for_dynamic(ctx, problem_.num_segments() * H, [&](int64_t index) {
    const int64_t segment = index / H, head = index % H;
    const int64_t first = problem_.grid.first_chunk(segment);
    DeltaChunk<A> work(problem_, scratch.part(kWork));
    const PanelMatrix<A> dstate(scratch.part(kState), K, V);
    load_rows({grad_states_NHKV, index * K * V, V}, A{1}, dstate);
    auto state_at = [&](int64_t i) {
      return PanelMatrix<A>(scratch.part(kStates) + i * PanelMatrix<A>::size(K, V), K, V);
    };
    int64_t end = problem_.grid.first_chunk(segment + 1);
    while (end > first) {
      const int64_t begin = first + (end - 1 - first) / kStateStride * kStateStride;
      state_at(0).copy_from(kept_state(segment, begin, head));
      for (int64_t c = begin; c + 1 < end; ++c) {
        work.begin(c, head);
        state_at(c + 1 - begin).copy_from(state_at(c - begin));
        work.advance(values_.at(c, head), state_at(c + 1 - begin));
      }
      for (int64_t c = end - 1; c >= begin; --c) {
        work.begin(c, head);
        key_gradients(scratch, work, c, head, state_at(c - begin), dstate, gradients);
      }
      end = begin;
    }
  });
  gradients.dq_TGK = sum_groups<A>(ctx, problem_, dq_THK_);
  gradients.dk_TGK = sum_groups<A>(ctx, problem_, dk_THK_);
  return gradients;
}

template <class A>
void DeltaBackward<A>::key_gradients(const ThreadScratch<A>& scratch, const DeltaChunk<A>& work,
                                     int64_t chunk, int64_t head, const PanelMatrix<A>& state,
                                     const PanelMatrix<A>& dstate,
                                     const LinearGradients& gradients) const {
  const int64_t length = work.length(), K = problem_.key_size, V = problem_.value_size;
  const PanelMatrix<A> d_o(scratch.part(kOutputGradient), length, V),
      x(scratch.part(kValueGradient), length, V),
      values = values_.at(chunk, head), from_rows(scratch.part(kRowsA), length, K),
      from_columns(scratch.part(kRowsB), length, K), to_state(scratch.part(kRowsC), length, K),
      dG(scratch.part(kRowsD), length, K), dscores(scratch.part(kScores), length, length);
  const PanelMatrix<A> key_scores = key_scores_.at(chunk, head);
  A* const transposed = scratch.part(kTransposed);
  const ChunkDecay<A>& decay = work.decay();
  load_rows(work.rows(do_THV_), A{1}, d_o);
  work.value_gradients(inverses_.at(chunk, head), query_scores_.at(chunk, head), &d_o, dstate, x);
  multiply_by_transpose(x, values, transposed, dscores,
                        {.scale = A{-1}, .add = false, .lower_out = true});
  keep_below_diagonal<A>(dscores, nullptr);

  // Y = -X S^T, the gradient of beta k e^G.
  multiply_by_transpose(x, state, transposed, from_rows, {.scale = A{-1}, .add = false});
  decay.decay_from_start(from_rows);
  const PanelMatrix<A> v(scratch.part(kTransposed), length, V);
  load_rows(work.rows(problem_.input.v_THV), A{1}, v);
  const TensorRows dbeta = work.rows(gradients.dbeta_TH);
  for (int64_t r = 0; r < length; ++r)
    dbeta.tensor.template data<A>()[dbeta.first + r * dbeta.step] =
        row_product(x, v, r) + row_product(from_rows, work.k(), r) +
        row_product(dscores, key_scores, r);
  dscores.scale_rows(work.beta());
  from_rows.scale_rows(work.beta());

  from_columns.fill_zero();
  decay.score_gradients(dscores, work.k(), work.k(), from_rows, from_columns);
  multiply_by_transpose(values, dstate, transposed, to_state, {.add = false});
  decay.decay_to_end(to_state);

  if (dgate_.defined()) {
    dG.fill_zero();
    add_elements(A{1}, work.k(), from_rows, dG);
    add_elements(A{-1}, work.k(), from_columns, dG);
    const PanelMatrix<A> last = dG.row_range(length - 1, 1);
    for (int64_t r = 0; r + 1 < length; ++r) {
      add_elements(A{-1}, work.k().row_range(r, 1), to_state.row_range(r, 1), dG.row_range(r, 1));
      add_elements(A{1}, work.k().row_range(r, 1), to_state.row_range(r, 1), last);
    }
    decay.add_state_gradient(state, dstate, dG);
    add_to_gate_gradient(work, dG);
    finish_gate_gradient(work);
  }
  const PanelMatrix<A>& dk = from_columns;
  for (const PanelMatrix<A>* part : {&from_rows, &to_state}) add_rows(*part, dk);
  load_rows(work.rows(dk_THK_), A{1}, to_state);
  add_rows(to_state, dk);
  store_rows(dk, A{1}, work.rows(dk_THK_));
  work.retreat(x, &d_o, dstate);
  x.scale_rows(work.beta());
  store_rows(x, A{1}, work.rows(gradients.dv_THV));
}

template <class A>
void DeltaBackward<A>::add_to_gate_gradient(const DeltaChunk<A>& work,
                                            const PanelMatrix<A>& dG) const {
  const TensorRows rows = work.rows(dgate_);
  A* to = dgate_.template data<A>() + rows.first;
  for (int64_t r = 0; r < dG.rows; ++r) {
    if (dgate_.rank() == 2) {
      to[r * rows.step] += row_sum(dG, r);
    } else {
      for (int64_t d = 0; d < dG.columns; ++d) to[r * rows.step + d] += dG.at(r, d);
    }
  }
}

template <class A>
void DeltaBackward<A>::finish_gate_gradient(const DeltaChunk<A>& work) const {
  const TensorRows rows = work.rows(dgate_);
  A* to = dgate_.template data<A>() + rows.first;
  const int64_t size = dgate_.rank() == 2 ? 1 : dgate_.dim(2);
  for (int64_t r = work.length() - 2; r >= 0; --r)
    for (int64_t d = 0; d < size; ++d) to[r * rows.step + d] += to[(r + 1) * rows.step + d];
}

template class DeltaBackward<float>;
template class DeltaBackward<double>;

}  // namespace longship
