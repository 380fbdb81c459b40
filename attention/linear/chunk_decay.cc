#include "attention/linear/chunk_decay.h"

#include "runtime/vector_exp.h"

namespace longship {

GateKind gate_kind(const Tensor& gate) {
  if (!gate.defined()) return GateKind::kNone;
  LONGSHIP_CHECK(gate.rank() >= 1 && gate.rank() <= 3, "gate {}", shape_string(gate.shape()));
  return gate.rank() == 1   ? GateKind::kConstant
         : gate.rank() == 2 ? GateKind::kScalar
                            : GateKind::kVector;
}

template <class A>
int64_t ChunkDecay<A>::workspace_size(int64_t key_size, int64_t chunk_size) {
  const int64_t block_size = PanelMatrix<A>::size(kBlock, key_size);
  return 2 * PanelMatrix<A>::size(chunk_size, key_size) + block_size +
         std::max(PanelMatrix<A>::size(key_size, chunk_size), block_size);
}

template <class A>
ChunkDecay<A>::ChunkDecay(const Tensor& gate, int64_t num_heads, int64_t key_size,
                          int64_t chunk_size, A* workspace)
    : kind_(gate_kind(gate)),
      gate_(gate.defined() ? gate.data<A>() : nullptr),
      num_heads_(num_heads),
      key_size_(key_size),
      scalar_(static_cast<size_t>(chunk_size + kPanelLanes<A>)),
      cumulated_(workspace),
      left_(cumulated_ + PanelMatrix<A>::size(chunk_size, key_size)),
      right_(left_ + PanelMatrix<A>::size(kBlock, key_size)),
      right_transposed_(right_ + PanelMatrix<A>::size(chunk_size, key_size)) {}

template <class A>
void ChunkDecay<A>::begin(const Chunk& chunk, int64_t head) {
  length_ = chunk.length;
  if (kind_ == GateKind::kVector) {
    constexpr int64_t W = kPanelLanes<A>;
    cumulated().for_each_row([&](int64_t p, int64_t r, A* G) {
      const A* g = gate_ + ((chunk.slot + r) * num_heads_ + head) * key_size_ + p * W;
      const int64_t width = std::min(W, key_size_ - p * W);
      for (int64_t i = 0; i < W; ++i) G[i] = (r > 0 ? G[i - W] : 0) + (i < width ? g[i] : 0);
    });
    return;
  }
  double sum = 0;
  for (int64_t r = 0; r < length_; ++r) {
    if (kind_ == GateKind::kConstant) sum += gate_[head];
    if (kind_ == GateKind::kScalar) sum += gate_[(chunk.slot + r) * num_heads_ + head];
    scalar_[static_cast<size_t>(r)] = sum;
  }
}

template <class A>
void ChunkDecay<A>::decay_from_start(const PanelMatrix<A>& rows) const {
  if (kind_ == GateKind::kNone) return;
  rows.for_each_row([&](int64_t p, int64_t r, A* x) {
    if (kind_ == GateKind::kVector) {
      const A* G = cumulated().row(p, r);
      for (int64_t i = 0; i < kPanelLanes<A>; ++i) x[i] *= vector_exp(G[i]);
    } else {
      const A decay = vector_exp(static_cast<A>(scalar_[static_cast<size_t>(r)]));
      for (int64_t i = 0; i < kPanelLanes<A>; ++i) x[i] *= decay;
    }
  });
}

template <class A>
void ChunkDecay<A>::decay_to_end(const PanelMatrix<A>& rows) const {
  if (kind_ == GateKind::kNone) return;
  rows.for_each_row([&](int64_t p, int64_t r, A* x) {
    if (kind_ == GateKind::kVector) {
      const A *G = cumulated().row(p, r), *last = cumulated().row(p, length_ - 1);
      for (int64_t i = 0; i < kPanelLanes<A>; ++i) x[i] *= vector_exp(last[i] - G[i]);
    } else {
      const double last = scalar_[static_cast<size_t>(length_ - 1)];
      const A decay = vector_exp(static_cast<A>(last - scalar_[static_cast<size_t>(r)]));
      for (int64_t i = 0; i < kPanelLanes<A>; ++i) x[i] *= decay;
    }
  });
}

template <class A>
void ChunkDecay<A>::decay_state(const PanelMatrix<A>& state) const {
  if (kind_ == GateKind::kNone) return;
  const A all = kind_ == GateKind::kVector
                    ? A{0}
                    : vector_exp(static_cast<A>(scalar_[static_cast<size_t>(length_ - 1)]));
  for (int64_t d = 0; d < state.rows; ++d) {
    const A decay = kind_ == GateKind::kVector ? vector_exp(cumulated().at(length_ - 1, d)) : all;
    for (int64_t p = 0; p < state.num_panels(); ++p) {
      A* row = state.row(p, d);
      for (int64_t i = 0; i < kPanelLanes<A>; ++i) row[i] *= decay;
    }
  }
}

template <class A>
PanelMatrix<A> ChunkDecay<A>::decayed_since(int64_t begin, int64_t count,
                                            const PanelMatrix<A>& x) const {
  const PanelMatrix<A> decayed(left_, count, key_size_);
  decayed.for_each_row([&](int64_t p, int64_t r, A* out) {
    const A *G = cumulated().row(p, begin + r), *reference = cumulated().row(p, begin);
    const A* in = x.row(p, begin + r);
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) out[i] = in[i] * vector_exp(G[i] - reference[i]);
  });
  return decayed;
}

template <class A>
PanelMatrix<A> ChunkDecay<A>::decayed_until(int64_t begin, const PanelMatrix<A>& x) const {
  const PanelMatrix<A> decayed(right_, begin, key_size_);
  decayed.for_each_row([&](int64_t p, int64_t r, A* out) {
    const A *G = cumulated().row(p, r), *reference = cumulated().row(p, begin);
    const A* in = x.row(p, r);
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) out[i] = in[i] * vector_exp(reference[i] - G[i]);
  });
  return decayed;
}

template <class A>
void ChunkDecay<A>::block_scores(int64_t begin, const PanelMatrix<A>& left,
                                 const PanelMatrix<A>& right, bool with_diagonal,
                                 const PanelMatrix<A>& out) const {
  constexpr int64_t W = kPanelLanes<A>;
  const int64_t end = std::min(begin + kBlock, length_);
  if (begin > 0) {
    const PanelMatrix<A> transposed(right_transposed_, key_size_, begin);
    transpose_panels(decayed_until(begin, right), transposed);
    multiply(decayed_since(begin, end - begin, left), transposed,
             out.row_range(begin, end - begin).first_columns(begin), {.add = false});
  }
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t i = begin; i < (with_diagonal ? r + 1 : r); ++i) {
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
void ChunkDecay<A>::scores(const PanelMatrix<A>& left, const PanelMatrix<A>& right,
                           bool with_diagonal, const PanelMatrix<A>& out) const {
  constexpr int64_t W = kPanelLanes<A>;
  if (kind_ == GateKind::kVector) {
    out.fill_zero();
    for (int64_t begin = 0; begin < length_; begin += kBlock)
      block_scores(begin, left, right, with_diagonal, out);
    return;
  }
  const PanelMatrix<A> transposed(right_transposed_, key_size_, length_);
  transpose_panels(right, transposed);
  multiply(left, transposed, out, {.add = false, .lower_out = true});
  out.for_each_row([&](int64_t p, int64_t r, A* row) {
    const int64_t width = r - p * W + (with_diagonal ? 1 : 0);
    const double G = scalar_[static_cast<size_t>(r)], *H = scalar_.data() + p * W;
    for (int64_t i = 0; i < W; ++i) {
      const A decay = vector_exp(static_cast<A>(i < width ? G - H[i] : 0.0));
      row[i] = i < width ? row[i] * decay : A{0};
    }
  });
}

template <class A>
void ChunkDecay<A>::block_gradients(int64_t begin, const PanelMatrix<A>& dscores,
                                    const PanelMatrix<A>& left, const PanelMatrix<A>& right,
                                    const PanelMatrix<A>& dleft,
                                    const PanelMatrix<A>& dright) const {
  constexpr int64_t W = kPanelLanes<A>;
  const int64_t count = std::min(kBlock, length_ - begin);
  if (begin > 0) {
    const PanelMatrix<A> block = dscores.row_range(begin, count).first_columns(begin);
    const PanelMatrix<A> sums(right_transposed_, count, key_size_);
    multiply(block, decayed_until(begin, right), sums, {.add = false});
    sums.for_each_row([&](int64_t p, int64_t r, const A* sum) {
      const A *G = cumulated().row(p, begin + r), *reference = cumulated().row(p, begin);
      A* out = dleft.row(p, begin + r);
      for (int64_t i = 0; i < W; ++i) out[i] += sum[i] * vector_exp(G[i] - reference[i]);
    });
    const PanelMatrix<A> before(right_, begin, key_size_);
    multiply_transposed(block, decayed_since(begin, count, left), before, {.add = false});
    before.for_each_row([&](int64_t p, int64_t r, const A* sum) {
      const A *G = cumulated().row(p, r), *reference = cumulated().row(p, begin);
      A* out = dright.row(p, r);
      for (int64_t i = 0; i < W; ++i) out[i] += sum[i] * vector_exp(reference[i] - G[i]);
    });
  }
  for (int64_t p = 0; p < left.num_panels(); ++p) {
    for (int64_t r = begin; r < begin + count; ++r) {
      const A *x = left.row(p, r), *G = cumulated().row(p, r);
      A* dx = dleft.row(p, r);
      for (int64_t i = begin; i < r; ++i) {
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
  constexpr int64_t W = kPanelLanes<A>;
  if (kind_ == GateKind::kVector) {
    for (int64_t begin = 0; begin < length_; begin += kBlock)
      block_gradients(begin, dscores, left, right, dleft, dright);
    return;
  }
  if (kind_ != GateKind::kNone)
    dscores.for_each_row([&](int64_t p, int64_t r, A* row) {
      const double G = scalar_[static_cast<size_t>(r)], *H = scalar_.data() + p * W;
      for (int64_t i = 0; i < W; ++i)
        row[i] *= vector_exp(static_cast<A>(p * W + i < r ? G - H[i] : 0.0));
    });
  multiply(dscores, right, dleft, {.lower_x = true});
  multiply_transposed(dscores, left, dright, {.lower_x = true});
}

template <class A>
void ChunkDecay<A>::add_state_gradient(const PanelMatrix<A>& state, const PanelMatrix<A>& dstate,
                                       const PanelMatrix<A>& dcumulated) const {
  constexpr int64_t W = kPanelLanes<A>;
  if (kind_ == GateKind::kNone || kind_ == GateKind::kConstant) return;
  for (int64_t d = 0; d < key_size_; ++d) {
    A sums[W] = {};
    for (int64_t p = 0; p < state.num_panels(); ++p) {
      const A *x = state.row(p, d), *y = dstate.row(p, d);
      for (int64_t i = 0; i < W; ++i) sums[i] += x[i] * y[i];
    }
    A total = 0;
    for (A sum : sums) total += sum;
    const A last = kind_ == GateKind::kVector
                       ? cumulated().at(length_ - 1, d)
                       : static_cast<A>(scalar_[static_cast<size_t>(length_ - 1)]);
    dcumulated.at(length_ - 1, d) += vector_exp(last) * total;
  }
}

template class ChunkDecay<float>;
template class ChunkDecay<double>;

}  // namespace longship
