// Panels: matrices stored as rows of kPanelLanes neighbouring numbers, and the two products that
// tiled attention is made of. Both keep a block of sums in registers: eight columns of two vectors
// use 16 of the 32 registers of AVX-512.
//
// A panel `w` of n rows is A w[n][kPanelLanes], aligned to the vector size. `x` is a plain
// row-major matrix with leading dimension `ld`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "attention/simd.h"
#include "runtime/dtype.h"

namespace longship {

// Lanes of a panel: two vectors.
template <class A>
inline constexpr int64_t kPanelLanes = 2 * Simd<A>::kLanes;

namespace panel_detail {

inline constexpr int kColumns = kNumVectorRegisters / 4;

// Sums C rows or columns of x against the panel, over `depth`, and hands each pair of vectors to
// finish(c, low, high).
template <bool kAlongRows, int C, class A, class Finish>
inline void product(const A* x, int64_t ld, const A* w, int64_t depth, Finish&& finish) {
  using Vector = typename Simd<A>::Vector;
  Vector low[C] = {}, high[C] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const Vector w_low = Simd<A>::load(w + k * kPanelLanes<A>);
    const Vector w_high = Simd<A>::load(w + k * kPanelLanes<A> + Simd<A>::kLanes);
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      const A factor = kAlongRows ? x[c * ld + k] : x[k * ld + c];
      low[c] += factor * w_low;
      high[c] += factor * w_high;
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) finish(c, low[c], high[c]);
}

// Covers `count` rows or columns in blocks of C, then C/2, ..., 1.
template <bool kAlongRows, int C, class A, class Finish>
inline void products(const A* x, int64_t ld, int64_t begin, int64_t count, const A* w,
                     int64_t depth, Finish&& finish) {
  int64_t c = begin;
  for (; c + C <= count; c += C)
    product<kAlongRows, C>(x + c * (kAlongRows ? ld : 1), ld, w, depth,
                           [&](int i, auto low, auto high) { finish(c + i, low, high); });
  if constexpr (C > 1) {
    if (c < count) products<kAlongRows, C / 2>(x, ld, c, count, w, depth, finish);
  }
}

// The first `width` numbers of a row, up to a vector; the other lanes are 0.
template <class A, class T>
inline typename Simd<A>::Vector load_row(const T* row, int64_t width) {
  constexpr int64_t W = Simd<A>::kLanes;
  alignas(kVectorBytes) A lanes[W] = {};
  if (width < W) {
    for (int64_t d = 0; d < width; ++d) lanes[d] = static_cast<A>(row[d]);
  } else if constexpr (std::is_same_v<A, T>) {
    return Simd<A>::load_unaligned(row);
  } else {
    for (int64_t d = 0; d < W; ++d) lanes[d] = static_cast<A>(row[d]);
  }
  return Simd<A>::load(lanes);
}

template <class A>
inline void add_row(A* row, typename Simd<A>::Vector x, int64_t width) {
  if (width == Simd<A>::kLanes) {
    Simd<A>::store_unaligned(row, Simd<A>::load_unaligned(row) + x);
  } else {
    for (int64_t d = 0; d < width; ++d) row[d] += x[d];
  }
}

}  // namespace panel_detail

// out[r] = scale * sum_k x[r][k] w[k]: x [num_rows, depth], w a panel of `depth` rows, out one of
// `num_rows`.
template <class A>
void multiply_rows(const A* x, int64_t ld, int64_t num_rows, const A* w, int64_t depth, A scale,
                   A* out) {
  panel_detail::products<true, panel_detail::kColumns>(
      x, ld, 0, num_rows, w, depth, [&](int64_t r, auto low, auto high) {
        A* row = out + r * kPanelLanes<A>;
        Simd<A>::store(row, low * scale);
        Simd<A>::store(row + Simd<A>::kLanes, high * scale);
      });
}

// out[c] = decay * out[c] + sum_r x[r][c] w[r]: x [num_rows, num_columns], w a panel of `num_rows`
// rows, out one of `num_columns`; `decay` is one number per lane.
template <class A>
void accumulate_columns(const A* x, int64_t ld, int64_t num_columns, const A* w, int64_t num_rows,
                        const A* decay, A* out) {
  const auto decay_low = Simd<A>::load(decay);
  const auto decay_high = Simd<A>::load(decay + Simd<A>::kLanes);
  panel_detail::products<false, panel_detail::kColumns>(
      x, ld, 0, num_columns, w, num_rows, [&](int64_t c, auto low, auto high) {
        A* row = out + c * kPanelLanes<A>;
        Simd<A>::store(row, Simd<A>::load(row) * decay_low + low);
        Simd<A>::store(row + Simd<A>::kLanes,
                       Simd<A>::load(row + Simd<A>::kLanes) * decay_high + high);
      });
}

// rows[i] = x[i]: x [num_rows, size] with leading dimension ld, packed and converted from T.
template <class T, class A>
void pack_rows(const T* x, int64_t ld, int64_t num_rows, int64_t size, A* rows) {
  for (int64_t i = 0; i < num_rows; ++i)
    for (int64_t d = 0; d < size; ++d) rows[i * size + d] = static_cast<A>(x[i * ld + d]);
}

// panel[d][i] = x[i][d] for i < num_lanes, 0 for the other lanes: x [num_lanes, size] with leading
// dimension ld, converted from T.
template <class T, class A>
void pack_panel(const T* x, int64_t ld, int64_t num_lanes, int64_t size, A* panel) {
  constexpr int64_t W = Simd<A>::kLanes;
  typename Simd<A>::Vector square[W];
  for (int64_t lane = 0; lane < kPanelLanes<A>; lane += W) {
    for (int64_t feature = 0; feature < size; feature += W) {
      const int64_t width = std::min(W, size - feature);
      for (int64_t i = 0; i < W; ++i)
        square[i] = lane + i < num_lanes
                        ? panel_detail::load_row<A>(x + (lane + i) * ld + feature, width)
                        : Simd<A>::broadcast(0);
      transpose<A>(square);
      for (int64_t d = 0; d < width; ++d)
        Simd<A>::store(panel + (feature + d) * kPanelLanes<A> + lane, square[d]);
    }
  }
}

// x[i][d] += factor[i] * panel[d][i] for i < num_lanes: x [num_lanes, size] with leading dimension
// ld.
template <class A>
void add_panel(const A* panel, const A* factor, int64_t num_lanes, int64_t size, A* x, int64_t ld) {
  constexpr int64_t W = Simd<A>::kLanes;
  typename Simd<A>::Vector square[W];
  for (int64_t lane = 0; lane < num_lanes; lane += W) {
    for (int64_t feature = 0; feature < size; feature += W) {
      const int64_t width = std::min(W, size - feature);
      for (int64_t d = 0; d < W; ++d)
        square[d] = d < width ? Simd<A>::load(panel + (feature + d) * kPanelLanes<A> + lane)
                              : Simd<A>::broadcast(0);
      transpose<A>(square);
      for (int64_t i = 0; i < std::min(W, num_lanes - lane); ++i)
        panel_detail::add_row<A>(x + (lane + i) * ld + feature, square[i] * factor[lane + i],
                                 width);
    }
  }
}

}  // namespace longship
