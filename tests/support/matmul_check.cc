#include "tests/support/matmul_check.h"

#include <gtest/gtest.h>

#include "runtime/ops/matmul.h"
#include "tests/support/gpu_check.h"
#include "tests/support/matrix_check.h"
#include "tests/support/op_check.h"

namespace longship::testing {
namespace {

std::string name_of(const ProductTypes& types, const Shape& extents_MNK) {
  return fmt::format("{} to {} {}", dtype_name(types.operand), dtype_name(types.result),
                     shape_string(extents_MNK));
}

// On the host in fp64: `matrix`, or zeros, plus a bias for each column.
Tensor with_bias(const Tensor& matrix, const Tensor& bias_N, const Shape& shape_MN) {
  const Tensor sum = Tensor::zeros(std::make_shared<Memory>(), shape_MN, DType::kF64);
  const Tensor bias_1N = on_host(bias_N).reshape({1, shape_MN[1]});
  const Tensor start = matrix.defined() ? on_host(matrix) : Tensor();
  for (int64_t m = 0; m < shape_MN[0]; ++m)
    for (int64_t n = 0; n < shape_MN[1]; ++n)
      sum.data<double>()[m * shape_MN[1] + n] =
          value_at(bias_1N, 0, n) + (start.defined() ? value_at(start, m, n) : 0);
  return sum;
}

}  // namespace

void check_matmul(const Context& ctx, const ProductTypes& types, const Shape& extents_MNK,
                  int layouts, double bound) {
  const int64_t M = extents_MNK[0], N = extents_MNK[1], K = extents_MNK[2];
  const Tensor a = operand(ctx, M, K, types.operand, layouts % 3, 1);
  const Tensor b = operand(ctx, K, N, types.operand, layouts / 3 % 3, 2);
  for (const bool accumulate : {false, true}) {
    const Tensor c = operand(ctx, M, N, types.result, layouts / 9, 3);
    const Tensor expected = reference_product(a, b, accumulate ? c.clone() : Tensor());
    matmul(ctx, a, b, c, accumulate);
    ASSERT_LE(product_error(c, expected, K), bound)
        << name_of(types, extents_MNK) << " layouts " << layouts << " accumulate " << accumulate;
  }
}

void check_matmul_add(const Context& ctx, const ProductTypes& types, const Shape& extents_MNK,
                      int residual_layout, double bound) {
  const int64_t M = extents_MNK[0], N = extents_MNK[1], K = extents_MNK[2];
  const Tensor a = operand(ctx, M, K, types.operand, 0, 1);
  const Tensor b = operand(ctx, K, N, types.operand, 1, 2);
  const Tensor residual = operand(ctx, M, N, types.result, residual_layout, 3);
  const Tensor bias_N = operand(ctx, 1, N, types.result, 0, 4).reshape({N});
  const Tensor c = ctx.empty({M, N}, types.result);
  const std::string name = name_of(types, extents_MNK);
  matmul_add(ctx, a, b, {bias_N, {}}, c);
  const Tensor biased = reference_product(a, b, with_bias({}, bias_N, {M, N}));
  EXPECT_LE(product_error(c, biased, K), bound) << name;
  matmul_add(ctx, a, b, {{}, residual}, c);
  EXPECT_LE(product_error(c, reference_product(a, b, residual), K), bound) << name;
  matmul_add(ctx, a, b, {bias_N, residual}, c);
  const Tensor both = reference_product(a, b, with_bias(residual, bias_N, {M, N}));
  EXPECT_LE(product_error(c, both, K), bound) << name;
  matmul_add(ctx, a.slice(1, 0, 0), b.slice(0, 0, 0), {{}, residual}, c);
  EXPECT_TRUE(bitwise_equal(on_host(c), on_host(residual))) << name;
}

void check_matmul_into_slice(const Context& ctx, const ProductTypes& types) {
  const Tensor whole = ctx.zeros({37, 41}, types.result);
  const Tensor a = operand(ctx, 33, 19, types.operand, 0, 1);
  const Tensor b = operand(ctx, 19, 35, types.operand, 0, 2);
  matmul(ctx, a, b, whole.slice(0, 2, 33).slice(1, 3, 35));
  const Tensor found = on_host(whole);
  for (int64_t row = 0; row < 37; ++row)
    for (int64_t column = 0; column < 41; ++column) {
      const bool inside = row >= 2 && row < 35 && column >= 3 && column < 38;
      EXPECT_EQ(value_at(found, row, column) != 0.0, inside) << row << ", " << column;
    }
}

void check_empty_matmul(const Context& ctx, const ProductTypes& types) {
  matmul(ctx, ctx.empty({0, 5}, types.operand), ctx.empty({5, 3}, types.operand),
         ctx.empty({0, 3}, types.result));
  const Tensor c = operand(ctx, 4, 3, types.result, 0, 1), before = on_host(c).clone();
  const Tensor a = ctx.empty({4, 0}, types.operand), b = ctx.empty({0, 3}, types.operand);
  matmul(ctx, a, b, c, true);
  EXPECT_TRUE(bitwise_equal(on_host(c), before));
  matmul(ctx, a, b, c);
  EXPECT_TRUE(bitwise_equal(on_host(c), Tensor::zeros(before.memory(), {4, 3}, types.result)));
}

}  // namespace longship::testing
