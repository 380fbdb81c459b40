#include "runtime/ops/matmul.h"

#include "runtime/device_dispatch.h"
#include "runtime/matrix.h"
#include "runtime/ops/matmul_cpu.h"
#include "runtime/ops/matmul_cuda.h"

namespace longship {
namespace {

void check_product(const MatmulOperands& op) {
  const DType dtype = op.a_MK.dtype(), c_dtype = op.c_MN.dtype();
  LONGSHIP_CHECK(is_floating(dtype) && op.b_KN.dtype() == dtype &&
                     (c_dtype == dtype || (c_dtype == DType::kF32 && dtype == DType::kBF16)),
                 "matmul of {} by {} into {}", dtype_name(dtype), dtype_name(op.b_KN.dtype()),
                 dtype_name(c_dtype));
  const Matrix a_MK = matrix_of(op.a_MK), b_KN = matrix_of(op.b_KN), c_MN = matrix_of(op.c_MN);
  LONGSHIP_CHECK(
      a_MK.columns == b_KN.rows && a_MK.rows == c_MN.rows && b_KN.columns == c_MN.columns,
      "matmul of {} by {} into {}", shape_string(op.a_MK.shape()), shape_string(op.b_KN.shape()),
      shape_string(op.c_MN.shape()));
  require_one_device("matmul", {&op.c_MN, &op.a_MK, &op.b_KN});
}

bool is_row_major(const Tensor& tensor) {
  return matrix_of(tensor).column_stride == 1;
}

void check_addends(const MatmulOperands& op) {
  const auto& [bias_N, residual_MN] = op.addends;
  const DType dtype = op.c_MN.dtype();
  if (bias_N.defined()) {
    LONGSHIP_CHECK(bias_N.shape() == Shape{op.c_MN.dim(1)} && bias_N.dtype() == dtype &&
                       bias_N.is_contiguous() && is_row_major(op.c_MN) && op.a_MK.dim(1) > 0,
                   "bias {} of shape {} for a product of {} by {}", dtype_name(bias_N.dtype()),
                   shape_string(bias_N.shape()), shape_string(op.a_MK.shape()),
                   shape_string(op.b_KN.shape()));
    require_one_device("matmul", {&op.c_MN, &bias_N});
  }
  if (residual_MN.defined()) {
    LONGSHIP_CHECK(
        residual_MN.shape() == op.c_MN.shape() && residual_MN.dtype() == dtype &&
            is_row_major(residual_MN) == is_row_major(op.c_MN),
        "residual {} of shape {} and strides {} for a product {} of shape {} and strides {}",
        dtype_name(residual_MN.dtype()), shape_string(residual_MN.shape()),
        shape_string(residual_MN.strides()), dtype_name(dtype), shape_string(op.c_MN.shape()),
        shape_string(op.c_MN.strides()));
    require_one_device("matmul", {&op.c_MN, &residual_MN});
  }
}

// Returns whether `sums_M`, if defined, was filled with the sums of a over K.
bool multiply(const Context& ctx, const MatmulOperands& op, const Tensor& sums_M = {}) {
  check_product(op);
  check_addends(op);
  if (op.c_MN.numel() == 0) return false;
  if (op.a_MK.dim(1) == 0) {
    if (!op.addends.residual_MN.defined()) {
      op.c_MN.fill_zero();
    } else if (!is_same_memory(op.addends.residual_MN, op.c_MN)) {
      op.c_MN.copy_from(op.addends.residual_MN);
    }
    return false;
  }
  if (op.c_MN.device().kind == DeviceKind::kCuda) return matmul_cuda(ctx, op, sums_M);
  if (op.c_MN.has_elements()) matmul_cpu(ctx, op);
  return false;
}

}  // namespace

void matmul(const Context& ctx, const Tensor& a_MK, const Tensor& b_KN, const Tensor& c_MN,
            bool accumulate) {
  multiply(ctx, {a_MK, b_KN, {{}, accumulate ? c_MN : Tensor()}, c_MN});
}

void matmul_add(const Context& ctx, const Tensor& a_MK, const Tensor& b_KN,
                const MatmulAddends& addends, const Tensor& c_MN) {
  multiply(ctx, {a_MK, b_KN, addends, c_MN});
}

bool matmul_with_row_sums(const Context& ctx, const Tensor& a_MK, const Tensor& b_KN,
                          const Tensor& residual_MN, const Tensor& c_MN, const Tensor& sums_M) {
  LONGSHIP_CHECK(
      c_MN.dtype() == DType::kF32 && is_row_major(c_MN) && sums_M.dtype() == DType::kF32 &&
          sums_M.shape() == Shape{a_MK.dim(0)} && sums_M.is_contiguous(),
      "row sums {} {} beside a product {} {}", dtype_name(sums_M.dtype()),
      shape_string(sums_M.shape()), dtype_name(c_MN.dtype()), shape_string(c_MN.shape()));
  return multiply(ctx, {a_MK, b_KN, {{}, residual_MN}, c_MN}, sums_M);
}

}  // namespace longship
