#include "runtime/ops/matmul_cuda.h"

#include "runtime/gpu.h"

namespace longship {

bool gemm_cuda(const Context& ctx, const GemmProduct& product) {
  const Tensor workspace = ctx.empty({Gemm::kWorkspaceBytes}, DType::kU8);
  if (!workspace.has_elements()) return true;
  const StreamHandle stream = compute_stream(ctx);
  return ctx.gpu->gemm->enqueue(product, workspace.address(), stream);
}

bool matmul_cuda(const Context& ctx, const MatmulOperands& op, const Tensor& sums_M) {
  GemmProduct product{.a_MK = matrix_of(op.a_MK), .b_KN = matrix_of(op.b_KN)};
  product.d_MN = matrix_of(op.c_MN);
  if (op.addends.residual_MN.defined()) product.c_MN = matrix_of(op.addends.residual_MN);
  if (op.addends.bias_N.defined() && op.c_MN.has_elements())
    product.bias_N = op.addends.bias_N.address();
  if (sums_M.defined()) {
    GemmProduct with_sums = product;
    if (sums_M.has_elements()) with_sums.a_sums_M = sums_M.address();
    if (gemm_cuda(ctx, with_sums)) return true;
  }
  if (gemm_cuda(ctx, product)) return false;
  throw Error(ErrorCode::kInternal,
              {.what = fmt::format("cuBLASLt has no kernel for a product of {} {} with strides {} "
                                   "by {} with strides {} into {}",
                                   dtype_name(op.a_MK.dtype()), shape_string(op.a_MK.shape()),
                                   shape_string(op.a_MK.strides()), shape_string(op.b_KN.shape()),
                                   shape_string(op.b_KN.strides()), dtype_name(op.c_MN.dtype()))});
}

}  // namespace longship
