#include "attention/linear/chunk_decay.h"

#include "attention/linear/panel_algebra.h"
#include "runtime/vector_exp.h"

namespace longship {
namespace {

// e^x to the accuracy of A; fp32 alone would round a large x first.
template <class A>
A exp_of(double x) {
  const A high = static_cast<A>(x);
  return vector_exp(high) * (A{1} + static_cast<A>(x - high));
}

}  // namespace

GateKind gate_kind(const Tensor& gate) {
  if (!gate.defined()) return GateKind::kNone;
  LONGSHIP_CHECK(gate.rank() >= 1 && gate.rank() <= 3, "gate {}", shape_string(gate.shape()));
  return gate.rank() == 1   ? GateKind::kConstant
         : gate.rank() == 2 ? GateKind::kScalar
                            : GateKind::kVector;
}

template <class A>
int64_t ChunkDecay<A>::workspace_size(const LinearProblem& problem) {
  const int64_t rows = PanelMatrix<A>::size(kChunk, problem.key_size);
  const int64_t transposed = std::max(PanelMatrix<A>::size(problem.key_size, kChunk), rows);
  const int64_t vectors = gate_kind(problem.input.gate) == GateKind::kVector ? 5 * rows : 0;
  return 4 * (kChunk + kPanelLanes<A>)+transposed + vectors;
}

template <class A>
ChunkDecay<A>::ChunkDecay(const LinearProblem& problem, A* workspace)
    : problem_(problem), kind_(gate_kind(problem.input.gate)) {
  constexpr int64_t kScalars = kChunk + kPanelLanes<A>;
  const int64_t rows = PanelMatrix<A>::size(kChunk, problem.key_size);
  from_start_ = workspace;
  to_end_ = from_start_ + kScalars;
  since_ = to_end_ + kScalars;
  until_ = since_ + kScalars;
  transposed_ = until_ + kScalars;
  cumulated_ = transposed_ + std::max(PanelMatrix<A>::size(problem.key_size, kChunk), rows);
  row_factors_ = cumulated_ + rows;
  column_factors_ = row_factors_ + rows;
  left_ = column_factors_ + rows;
  right_ = left_ + rows;
}

template <class A>
void ChunkDecay<A>::begin(const Chunk& chunk, int64_t head) {
  length_ = chunk.length;
  if (kind_ == GateKind::kNone) return;
  if (kind_ != GateKind::kVector) return begin_scalar(chunk, head);
  const int64_t H = problem_.num_heads, K = problem_.key_size;
  load_rows({problem_.input.gate, (chunk.slot * H + head) * K, H * K}, A{1}, cumulated());
  cumulated().for_each_row([&](int64_t, int64_t r, A* G) {
    for (int64_t i = 0; r > 0 && i < kPanelLanes<A>; ++i) G[i] += G[i - kPanelLanes<A>];
  });
  auto all_weak = [&] {
    for (int64_t begin = 0; begin < length_; begin += block_size_)
      if (!is_weak(begin, std::min(begin + block_size_, length_))) return false;
    return true;
  };
  for (block_size_ = kChunk; block_size_ > kSmallestBlock && !all_weak();) block_size_ /= 2;
}

template <class A>
void ChunkDecay<A>::begin_scalar(const Chunk& chunk, int64_t head) {
  const A* gate = problem_.input.gate.data<A>() + head;
  const int64_t H = problem_.num_heads;
  double sum = 0;
  for (int64_t r = 0; r < length_; ++r) {
    sum += kind_ == GateKind::kConstant ? gate[0] : gate[(chunk.slot + r) * H];
    scalar_[static_cast<size_t>(r)] = sum;
  }
  std::fill(scalar_.begin() + length_, scalar_.end(), sum);
  const double middle = scalar_[static_cast<size_t>(reference(0, length_))];
  is_weak_ = scalar_[0] - middle <= kLimit && middle - sum <= kLimit;
  // All lanes of the padding, so that the loop has a constant number of steps.
  for (int64_t r = 0; r < kChunk + kPanelLanes<A>; ++r) {
    const double G = scalar_[static_cast<size_t>(r)];
    from_start_[r] = exp_of<A>(G);
    to_end_[r] = exp_of<A>(sum - G);
    since_[r] = exp_of<A>(G - middle);
    until_[r] = exp_of<A>(middle - G);
  }
}

template <class A>
bool ChunkDecay<A>::is_weak(int64_t begin, int64_t end) const {
  A strongest = 0;
  for (int64_t p = 0; p < cumulated().num_panels(); ++p) {
    const A *first = cumulated().row(p, begin), *last = cumulated().row(p, end - 1),
            *middle = cumulated().row(p, reference(begin, end));
    for (int64_t i = 0; i < kPanelLanes<A>; ++i)
      strongest = std::max({strongest, first[i] - middle[i], middle[i] - last[i]});
  }
  return strongest <= kLimit;
}

template <class A>
void ChunkDecay<A>::decay_from_start(const PanelMatrix<A>& rows) const {
  if (kind_ == GateKind::kNone) return;
  if (kind_ != GateKind::kVector) return rows.scale_rows(from_start_);
  rows.for_each_row([&](int64_t p, int64_t r, A* x) {
    const A* G = cumulated().row(p, r);
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) x[i] *= vector_exp(G[i]);
  });
}

template <class A>
void ChunkDecay<A>::decay_to_end(const PanelMatrix<A>& rows) const {
  if (kind_ == GateKind::kNone) return;
  if (kind_ != GateKind::kVector) return rows.scale_rows(to_end_);
  rows.for_each_row([&](int64_t p, int64_t r, A* x) {
    const A *G = cumulated().row(p, r), *last = cumulated().row(p, length_ - 1);
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) x[i] *= vector_exp(last[i] - G[i]);
  });
}

template <class A>
A ChunkDecay<A>::state_decay(int64_t d) const {
  if (kind_ == GateKind::kNone) return 1;
  return kind_ == GateKind::kVector ? vector_exp(cumulated().at(length_ - 1, d))
                                    : from_start_[length_ - 1];
}

template <class A>
void ChunkDecay<A>::decay_state(const PanelMatrix<A>& state) const {
  if (kind_ == GateKind::kNone) return;
  for (int64_t d = 0; d < state.rows; ++d) {
    const A decay = state_decay(d);
    for (int64_t p = 0; p < state.num_panels(); ++p) {
      A* row = state.row(p, d);
      for (int64_t i = 0; i < kPanelLanes<A>; ++i) row[i] *= decay;
    }
  }
}

template <class A>
typename ChunkDecay<A>::Block ChunkDecay<A>::block_at(int64_t begin) const {
  const int64_t end = std::min(begin + block_size_, length_);
  if (is_weak(begin, end)) return {begin, end, reference(begin, end), end};
  return {begin, end, begin, begin};
}

template <class A>
PanelMatrix<A> ChunkDecay<A>::row_factors(const Block& block) const {
  const PanelMatrix<A> factors(row_factors_, block.end - block.begin, problem_.key_size);
  factors.for_each_row([&](int64_t p, int64_t r, A* out) {
    const A *G = cumulated().row(p, block.begin + r), *middle = cumulated().row(p, block.reference);
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) out[i] = vector_exp(G[i] - middle[i]);
  });
  return factors;
}

template <class A>
PanelMatrix<A> ChunkDecay<A>::column_factors(const Block& block) const {
  const PanelMatrix<A> factors(column_factors_, block.num_columns, problem_.key_size);
  factors.for_each_row([&](int64_t p, int64_t r, A* out) {
    const A *G = cumulated().row(p, r), *middle = cumulated().row(p, block.reference);
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) out[i] = vector_exp(middle[i] - G[i]);
  });
  return factors;
}

template <class A>
void ChunkDecay<A>::block_scores(const Block& block, const PanelMatrix<A>& left,
                                 const PanelMatrix<A>& right, bool with_diagonal,
                                 const PanelMatrix<A>& out) const {
  constexpr int64_t W = kPanelLanes<A>;
  const int64_t K = problem_.key_size, count = block.end - block.begin;
  if (block.num_columns > 0) {
    const PanelMatrix<A> rows(left_, count, K), columns(right_, block.num_columns, K),
        transposed(transposed_, K, block.num_columns);
    set_product(left.row_range(block.begin, count), row_factors(block), rows);
    set_product(right.row_range(0, block.num_columns), column_factors(block), columns);
    transpose_panels(columns, transposed);
    multiply(rows, transposed, out.row_range(block.begin, count).first_columns(block.num_columns),
             {.add = false, .lower_out = block.begin == 0});
  }
  if (block.is_whole()) {
    for (int64_t r = block.begin; r < block.end; ++r) clear_from(out, r, with_diagonal ? r + 1 : r);
    return;
  }
  for (int64_t r = block.begin; r < block.end; ++r) {
    for (int64_t i = block.begin; i < (with_diagonal ? r + 1 : r); ++i) {
      A sums[W] = {};
      for (int64_t p = 0; p < left.num_panels(); ++p) {
        const A *x = left.row(p, r), *y = right.row(p, i);
        const A *G = cumulated().row(p, r), *H = cumulated().row(p, i);
        for (int64_t lane = 0; lane < W; ++lane)
          sums[lane] += x[lane] * y[lane] * vector_exp(G[lane] - H[lane]);
      }
      A total = 0;
      for (A sum : sums) total += sum;
      out.at(r, i) = total;
    }
  }
}

template <class A>
void ChunkDecay<A>::decay_scores(const PanelMatrix<A>& scores) const {
  constexpr int64_t W = kPanelLanes<A>;
  if (kind_ == GateKind::kNone) return;
  scores.for_each_row([&](int64_t p, int64_t r, A* row) {
    if (is_weak_) {
      for (int64_t i = 0; i < W; ++i) row[i] *= since_[r] * until_[p * W + i];
      return;
    }
    const double G = scalar_[static_cast<size_t>(r)], *H = scalar_.data() + p * W;
    for (int64_t i = 0; i < W; ++i) row[i] *= exp_of<A>(p * W + i < r ? G - H[i] : 0.0);
  });
}

template <class A>
void ChunkDecay<A>::scores(const PanelMatrix<A>& left, const PanelMatrix<A>& right,
                           bool with_diagonal, const PanelMatrix<A>& out) const {
  if (kind_ == GateKind::kVector) {
    out.fill_zero();
    for (int64_t begin = 0; begin < length_; begin += block_size_)
      block_scores(block_at(begin), left, right, with_diagonal, out);
    return;
  }
  const PanelMatrix<A> transposed(transposed_, problem_.key_size, length_);
  transpose_panels(right, transposed);
  multiply(left, transposed, out, {.add = false, .lower_out = true});
  decay_scores(out);
  for (int64_t r = 0; r < length_; ++r) clear_from(out, r, with_diagonal ? r + 1 : r);
}

template <class A>
void ChunkDecay<A>::block_gradients(const Block& block, const PanelMatrix<A>& dscores,
                                    const PanelMatrix<A>& left, const PanelMatrix<A>& right,
                                    const PanelMatrix<A>& dleft,
                                    const PanelMatrix<A>& dright) const {
  constexpr int64_t W = kPanelLanes<A>;
  const int64_t K = problem_.key_size, count = block.end - block.begin;
  if (block.num_columns > 0) {
    const PanelMatrix<A> dblock =
        dscores.row_range(block.begin, count).first_columns(block.num_columns);
    const PanelMatrix<A> rows(left_, count, K), columns(right_, block.num_columns, K),
        of_rows = row_factors(block), of_columns = column_factors(block);
    set_product(left.row_range(block.begin, count), of_rows, rows);
    set_product(right.row_range(0, block.num_columns), of_columns, columns);
    const PanelMatrix<A> drows(transposed_, count, K);
    multiply(dblock, columns, drows, {.add = false, .lower_x = block.begin == 0});
    add_elements(A{1}, drows, of_rows, dleft.row_range(block.begin, count));
    const PanelMatrix<A> dcolumns(transposed_, block.num_columns, K);
    multiply_transposed(dblock, rows, dcolumns, {.add = false, .lower_x = block.begin == 0});
    add_elements(A{1}, dcolumns, of_columns, dright.row_range(0, block.num_columns));
  }
  if (block.is_whole()) return;
  for (int64_t p = 0; p < left.num_panels(); ++p) {
    for (int64_t r = block.begin; r < block.end; ++r) {
      const A *x = left.row(p, r), *G = cumulated().row(p, r);
      A* dx = dleft.row(p, r);
      for (int64_t i = block.begin; i < r; ++i) {
        const A *y = right.row(p, i), *H = cumulated().row(p, i);
        A* dy = dright.row(p, i);
        const A factor = dscores.at(r, i);
#pragma GCC ivdep
        for (int64_t lane = 0; lane < W; ++lane) {
          const A decayed = factor * vector_exp(G[lane] - H[lane]);
          dx[lane] += decayed * y[lane];
          dy[lane] += decayed * x[lane];
        }
      }
    }
  }
}

template <class A>
void ChunkDecay<A>::score_gradients(const PanelMatrix<A>& dscores, const PanelMatrix<A>& left,
                                    const PanelMatrix<A>& right, const PanelMatrix<A>& dleft,
                                    const PanelMatrix<A>& dright) const {
  if (kind_ == GateKind::kVector) {
    for (int64_t begin = 0; begin < length_; begin += block_size_)
      block_gradients(block_at(begin), dscores, left, right, dleft, dright);
    return;
  }
  decay_scores(dscores);
  multiply(dscores, right, dleft, {.lower_x = true});
  multiply_transposed(dscores, left, dright, {.lower_x = true});
}

template <class A>
void ChunkDecay<A>::state_products(const PanelMatrix<A>& state, const PanelMatrix<A>& dstate,
                                   A* products_K) const {
  for (int64_t d = 0; d < problem_.key_size; ++d)
    products_K[d] = state_decay(d) * row_product(state, dstate, d);
}

template class ChunkDecay<float>;
template class ChunkDecay<double>;

}  // namespace longship
