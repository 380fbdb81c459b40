// The inverse of a unit lower triangular matrix: T = (I + N)^-1 of the delta rule's chunk form
// (Yang et al. 2024, arXiv 2406.06484).
#pragma once

#include "attention/linear/panel_matrix.h"

namespace longship {

// inverse = (I + strict)^-1 for a strictly lower triangular matrix [n, n]; entries of `strict` on
// and above its diagonal are not read. Forward substitution by rows, in blocks of 16 whose update
// from the rows above is a matrix product. Both fp32 or both fp64; no overlap.
template <class A>
void invert_unit_lower(const PanelMatrix<A>& strict, const PanelMatrix<A>& inverse);

}  // namespace longship
