// Matrices in every layout, and their products by the definition.
#pragma once

#include "runtime/context.h"

namespace longship::testing {

// An element of a host tensor of any floating dtype.
double value_at(const Tensor& tensor, int64_t row, int64_t column);

// A [rows, columns] tensor of normals in ctx.memory: packed (layout 0), a transposed view (1), or a
// slice of a wider tensor (2). A pure function of (seed, shape, dtype, layout).
Tensor operand(const Context& ctx, int64_t rows, int64_t columns, DType dtype, int layout,
               uint64_t seed);

// a b (+ start) in fp64 on the host; the operands lie on any device.
Tensor reference_product(const Tensor& a, const Tensor& b, const Tensor& start = {});

// RMS error of a product of standard normals, in units of the standard deviation of its elements:
// unlike a relative error it stays meaningful when a few sums happen to cancel.
double product_error(const Tensor& found, const Tensor& expected, int64_t K);

}  // namespace longship::testing
