#include "attention/linear/triangular_inverse.h"

namespace longship {

template <class A>
void invert_unit_lower(const PanelMatrix<A>& strict, const PanelMatrix<A>& inverse) {
  constexpr int64_t W = kPanelLanes<A>, kBlock = 16;
  const int64_t n = strict.rows;
  inverse.fill_zero();
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, n);
    multiply(strict.row_range(begin, end - begin).first_columns(begin), inverse,
             inverse.row_range(begin, end - begin), {.scale = A{-1}});
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t p = 0; p * W <= r; ++p) {
        A* sum = inverse.row(p, r);
        for (int64_t i = begin; i < r; ++i) {
          const A factor = strict.at(r, i);
          const A* above = inverse.row(p, i);
          for (int64_t lane = 0; lane < W; ++lane) sum[lane] -= factor * above[lane];
        }
      }
      inverse.at(r, r) = 1;
    }
  }
}

template void invert_unit_lower(const PanelMatrix<float>&, const PanelMatrix<float>&);
template void invert_unit_lower(const PanelMatrix<double>&, const PanelMatrix<double>&);

}  // namespace longship
