// Element- and row-wise steps on panel matrices, as the gradients of linear attention need them.
#pragma once

#include "attention/linear/panel_matrix.h"

namespace longship {

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

// Sets the elements of row r from column `first` on to 0.
template <class A>
void clear_from(const PanelMatrix<A>& x, int64_t r, int64_t first) {
  constexpr int64_t W = kPanelLanes<A>;
  for (int64_t p = first / W; p < x.num_panels(); ++p)
    std::fill(x.row(p, r) + std::max<int64_t>(first - p * W, 0), x.row(p, r) + W, A{0});
}

// Sets the elements on and above the diagonal to 0; their diagonal goes to `diagonal` if not null.
template <class A>
void keep_below_diagonal(const PanelMatrix<A>& x, A* diagonal) {
  for (int64_t r = 0; r < x.rows; ++r) {
    if (diagonal) diagonal[r] = x.at(r, r);
    clear_from(x, r, r);
  }
}

// out = x y, element by element
template <class A>
void set_product(const PanelMatrix<A>& x, const PanelMatrix<A>& y, const PanelMatrix<A>& out) {
  out.for_each_row([&](int64_t p, int64_t r, A* product) {
    for (int64_t i = 0; i < kPanelLanes<A>; ++i) product[i] = x.row(p, r)[i] * y.row(p, r)[i];
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

}  // namespace longship
