// Matrices of a chunk of linear attention, stored as panels of columns so that both factors of a
// product are read along cache lines, and their products, blocked for registers
// (attention/panel.h).
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/panel.h"
#include "runtime/tensor.h"

namespace longship {

// Element (r, c) lies at data[c / W * panel_stride + r * W + c % W], W = kPanelLanes<A>. The lanes
// beyond the last column are 0. A view: copies share the elements.
template <class A>
struct PanelMatrix {
  static constexpr int64_t W = kPanelLanes<A>;

  A* data;
  int64_t rows, columns, panel_stride;

  PanelMatrix(A* data, int64_t rows, int64_t columns)
      : data(data), rows(rows), columns(columns), panel_stride(rows * W) {}

  // Numbers in memory.
  static int64_t size(int64_t rows, int64_t columns) { return (columns + W - 1) / W * W * rows; }
  int64_t size() const { return num_panels() * W * rows; }

  int64_t num_panels() const { return (columns + W - 1) / W; }
  A* panel(int64_t p) const { return data + p * panel_stride; }
  A* row(int64_t p, int64_t r) const { return panel(p) + r * W; }
  A& at(int64_t r, int64_t c) const { return row(c / W, r)[c % W]; }

  // Rows [begin, begin + count).
  PanelMatrix row_range(int64_t begin, int64_t count) const {
    PanelMatrix part = *this;
    part.data += begin * W;
    part.rows = count;
    return part;
  }
  // Columns [begin, begin + count), whole panels of them.
  PanelMatrix column_range(int64_t begin, int64_t count) const {
    PanelMatrix part = *this;
    part.data += begin / W * panel_stride;
    part.columns = count;
    return part;
  }
  // The first `count` columns, as a left factor: lanes beyond them are not 0.
  PanelMatrix first_columns(int64_t count) const {
    PanelMatrix part = *this;
    part.columns = count;
    return part;
  }

  // f(panel, row, the W numbers of that row) over all of the matrix, panel by panel.
  template <class F>
  void for_each_row(F&& f) const {
    for (int64_t p = 0; p < num_panels(); ++p)
      for (int64_t r = 0; r < rows; ++r) f(p, r, row(p, r));
  }
  void fill_zero() const {
    for (int64_t p = 0; p < num_panels(); ++p) std::fill_n(panel(p), rows * W, A{0});
  }
  void copy_from(const PanelMatrix& other) const {
    for (int64_t p = 0; p < num_panels(); ++p) std::copy_n(other.panel(p), rows * W, panel(p));
  }
  void scale_rows(const A* factor) const {
    for_each_row([&](int64_t, int64_t r, A* x) {
      for (int64_t i = 0; i < W; ++i) x[i] *= factor[r];
    });
  }
};

// What a product does between two of its blocks.
struct Nothing {
  void step() const {}
};

template <class A>
struct ProductOptions {
  A scale = 1;
  bool add = true;         // to `out`, else overwrite it
  bool lower_x = false;    // x is lower triangular; zeros above the diagonal are stored
  bool lower_out = false;  // blocks above the diagonal of out are not computed: left as they are
};

// out (+)= scale * x y; meanwhile.step() is called once per block.
template <class A, class Meanwhile = const Nothing>
void multiply(const PanelMatrix<A>& x, const PanelMatrix<A>& y, const PanelMatrix<A>& out,
              const ProductOptions<A>& options = {}, Meanwhile&& meanwhile = {}) {
  constexpr int64_t W = kPanelLanes<A>, kRows = panel_detail::kColumns;
  for (int64_t p = 0; p < out.num_panels(); ++p) {
    for (int64_t r = 0; r < x.rows; r += kRows) {
      const int64_t count = std::min(kRows, x.rows - r);
      if (options.lower_out && p * W >= r + count) continue;
      meanwhile.step();
      const int64_t depth = options.lower_x ? std::min(x.columns, r + count) : x.columns;
      for (int64_t k = 0; k < depth; k += W) {
        const bool add = options.add || k > 0;
        panel_detail::products<true, kRows>(x.row(k / W, r), W, 0, count, y.row(p, k),
                                            std::min(W, depth - k),
                                            [&](int64_t i, auto low, auto high) {
                                              A* sum = out.row(p, r + i);
                                              low *= options.scale;
                                              high *= options.scale;
                                              if (add) {
                                                low += Simd<A>::load(sum);
                                                high += Simd<A>::load(sum + Simd<A>::kLanes);
                                              }
                                              Simd<A>::store(sum, low);
                                              Simd<A>::store(sum + Simd<A>::kLanes, high);
                                            });
      }
    }
  }
}

// out (+)= scale * x^T y; `lower_out` is not looked at. meanwhile.step() is called once per block.
template <class A, class Meanwhile = const Nothing>
void multiply_transposed(const PanelMatrix<A>& x, const PanelMatrix<A>& y,
                         const PanelMatrix<A>& out, const ProductOptions<A>& options = {},
                         Meanwhile&& meanwhile = {}) {
  constexpr int64_t W = kPanelLanes<A>, kRows = panel_detail::kColumns;
  for (int64_t p = 0; p < out.num_panels(); ++p) {
    for (int64_t c = 0; c < x.columns; c += kRows) {
      const int64_t first = options.lower_x ? c : 0;
      meanwhile.step();
      panel_detail::products<false, kRows>(x.row(c / W, first) + c % W, W, 0,
                                           std::min(kRows, x.columns - c), y.row(p, first),
                                           x.rows - first, [&](int64_t i, auto low, auto high) {
                                             A* sum = out.row(p, c + i);
                                             low *= options.scale;
                                             high *= options.scale;
                                             if (options.add) {
                                               low += Simd<A>::load(sum);
                                               high += Simd<A>::load(sum + Simd<A>::kLanes);
                                             }
                                             Simd<A>::store(sum, low);
                                             Simd<A>::store(sum + Simd<A>::kLanes, high);
                                           });
    }
  }
}

// out = x^T
template <class A>
void transpose_panels(const PanelMatrix<A>& x, const PanelMatrix<A>& out) {
  constexpr int64_t W = kPanelLanes<A>;
  for (int64_t q = 0; q < out.num_panels(); ++q)
    for (int64_t p = 0; p < x.num_panels(); ++p)
      pack_panel(x.row(p, q * W), W, std::min(W, x.rows - q * W), std::min(W, x.columns - p * W),
                 out.row(q, p * W));
}

// Where the rows of a matrix lie in a contiguous tensor: row r starts at element
// first + r * step.
struct TensorRows {
  const Tensor& tensor;
  int64_t first = 0;
  int64_t step = 0;

  TensorRows from_column(int64_t column) const { return {tensor, first + column, step}; }
};

// As for_each_row, but row by row: the rows of a tensor lie far apart, often a power of two, where
// going down a panel would find few cache sets and no prefetching.
template <class A, class F>
void in_tensor_order(const PanelMatrix<A>& x, F&& f) {
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t p = 0; p < x.num_panels(); ++p) f(p, r, x.row(p, r));
}

// out = scale * rows, converted from any floating dtype.
template <class A>
void load_rows(const TensorRows& rows, A scale, const PanelMatrix<A>& out) {
  constexpr int64_t W = kPanelLanes<A>;
  dispatch_floating(rows.tensor.dtype(), [&](auto tag) {
    const auto* from = rows.tensor.template data<decltype(tag)>() + rows.first;
    in_tensor_order(out, [&](int64_t p, int64_t r, A* to) {
      const auto* x = from + r * rows.step + p * W;
      const int64_t width = std::min(W, out.columns - p * W);
      if (width == W) {
        for (int64_t i = 0; i < W; ++i) to[i] = scale * static_cast<A>(x[i]);
      } else {
        for (int64_t i = 0; i < W; ++i) to[i] = i < width ? scale * static_cast<A>(x[i]) : A{0};
      }
    });
  });
}

// rows = scale * x, rounded to the tensor's floating dtype.
template <class A>
void store_rows(const PanelMatrix<A>& x, A scale, const TensorRows& rows) {
  constexpr int64_t W = kPanelLanes<A>;
  dispatch_floating(rows.tensor.dtype(), [&](auto tag) {
    using T = decltype(tag);
    T* to = rows.tensor.template data<T>() + rows.first;
    in_tensor_order(x, [&](int64_t p, int64_t r, const A* from) {
      T* out = to + r * rows.step + p * W;
      const int64_t width = std::min(W, x.columns - p * W);
#pragma GCC ivdep
      for (int64_t i = 0; i < width; ++i)
        out[i] = static_cast<T>(static_cast<Accumulator<T>>(scale * from[i]));
    });
  });
}

}  // namespace longship
