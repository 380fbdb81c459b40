// Checks of matmul() that it passes on every device, against the definition.
#pragma once

#include "runtime/context.h"

namespace longship::testing {

struct ProductTypes {
  DType operand, result;
};

// The product of [M, K] and [K, N], written and added, is within `bound` in product_error(). The
// digits of `layouts` to base 3 are those of operand() for a, b and c.
void check_matmul(const Context& ctx, const ProductTypes& types, const Shape& extents_MNK,
                  int layouts, double bound);

// So is matmul_add() of a bias, of a residual in this layout, of both, and of a residual to
// products without a term, which is exact.
void check_matmul_add(const Context& ctx, const ProductTypes& types, const Shape& extents_MNK,
                      int residual_layout, double bound);

// A product into a slice of a larger matrix leaves what is around it alone.
void check_matmul_into_slice(const Context& ctx, const ProductTypes& types);

// Products without rows do nothing; those without a term are zero.
void check_empty_matmul(const Context& ctx, const ProductTypes& types);

}  // namespace longship::testing
