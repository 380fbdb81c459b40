// The feature map of BASED (Arora et al. 2024, arXiv 2402.18668), the softmax's exponential to
// second order: for x of size d
//
//   phi(x) = [1, x / d^(1/4), vec(x x^T) / sqrt(2 d)],   of 1 + d + d^2 features, so that
//   phi(q) . phi(k) = 1 + s + s^2 / 2 >= 1/2,   s = q . k / sqrt(d)
//
// and the weighted mean that the softmax's denominator becomes: values get a column of ones, whose
// output is the sum of the weights.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

// x [T, H, d] to [T, H, 1 + d + d^2], in x's dtype.
Variable taylor_map(Context& ctx, const Variable& x_THD);

// v [T, H, V] to [T, H, V + 1], with ones behind the values.
Variable with_ones(Context& ctx, const Variable& v_THV);

// o [T, H, V + 1] to y [T, H, V]: the first V divided by the last, which is not 0.
Variable divided_by_last(Context& ctx, const Variable& o_THW);

}  // namespace longship
