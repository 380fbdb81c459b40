// T tokens, E hidden size, V vocabulary; R rows of logits at a time, P logits from row to row.
#include "runtime/ops/linear_cross_entropy_cuda.h"

#include <algorithm>

#include "runtime/gpu.h"
#include "runtime/ops/cross_entropy_rows_cuda.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/matmul_cuda.h"
#include "runtime/ops/scale_in_place_cuda.h"
#include "runtime/ops/weighted_sum_cuda.h"

namespace longship {
namespace {

// The gradients of the logits of one chunk, which lie where the logits were.
Matrix logit_gradients(const Tensor& logits_RP, int64_t vocab_size, DType dtype) {
  Matrix m = matrix_of(logits_RP);
  m.dtype = dtype;
  m.columns = vocab_size;
  m.row_stride *= dtype_size(DType::kF32) / dtype_size(dtype);
  return m;
}

// d = a b, or d += a b.
void multiply(const Context& ctx, const Matrix& a_MK, const Matrix& b_KN, const Matrix& d_MN,
              bool accumulate) {
  const bool enqueued = gemm_cuda(
      ctx, {.a_MK = a_MK, .b_KN = b_KN, .d_MN = d_MN, .c_MN = accumulate ? d_MN : Matrix()});
  LONGSHIP_CHECK(enqueued, "cuBLASLt has no kernel for gradients of a head of {} by {}",
                 dtype_name(a_MK.dtype), dtype_name(b_KN.dtype));
}

// Fills losses_T and the gradients.
void process_tokens(Context& ctx, const LinearCrossEntropy& op, const LossGradients& gradients,
                    const Tensor& losses_T) {
  const int64_t T = op.h_TE.dim(0), V = op.head_VE.dim(0);
  const int64_t P = (V + kLogitRowStep - 1) / kLogitRowStep * kLogitRowStep;
  const Tensor& dh_TE = gradients.dh_TE;
  const Tensor& dhead_VE = gradients.dhead_VE;
  if (dhead_VE.defined() && T == 0) dhead_VE.fill_zero();
  for (int64_t begin = 0; begin < T; begin += op.chunk_tokens) {
    const int64_t R = std::min(op.chunk_tokens, T - begin);
    const Tensor h_RE = op.h_TE.slice(0, begin, R);
    const Tensor logits_RP = ctx.empty({R, P}, DType::kF32);
    matmul(ctx, h_RE, op.head_VE.transpose(0, 1), logits_RP.slice(1, 0, V));
    if (logits_RP.has_elements())
      cross_entropy_rows_cuda(
          {.num_rows = R,
           .vocab_size = V,
           .row_stride = P,
           .logits_RV = logits_RP.device_data<float>(),
           .targets_R = op.targets_T.device_data<int32_t>() + begin,
           .weights_R =
               op.weights_T.defined() ? op.weights_T.device_data<float>() + begin : nullptr,
           .losses_R = losses_T.device_data<float>() + begin,
           .wants_gradients = dh_TE.defined() || dhead_VE.defined(),
           .gradient_dtype = op.h_TE.dtype()},
          compute_stream(ctx));
    const Matrix dlogits_RV = logit_gradients(logits_RP, V, op.h_TE.dtype());
    if (dhead_VE.defined())
      multiply(ctx, dlogits_RV.transposed(), matrix_of(h_RE), matrix_of(dhead_VE), begin > 0);
    if (dh_TE.defined())
      multiply(ctx, dlogits_RV, matrix_of(op.head_VE), matrix_of(dh_TE.slice(0, begin, R)), false);
  }
}

}  // namespace

Tensor linear_cross_entropy_cuda(Context& ctx, const LinearCrossEntropy& op,
                                 const LossGradients& gradients) {
  const Tensor losses_T = ctx.empty(op.targets_T.shape(), DType::kF32);
  process_tokens(ctx, op, gradients, losses_T);
  const Tensor loss = ctx.empty({1}, DType::kF32);
  if (loss.has_elements())
    weighted_sum_cuda({.num_tokens = losses_T.numel(),
                       .losses_T = losses_T.device_data<float>(),
                       .weights_T = op.weights_T.device_data<float>(),
                       .sum = loss.device_data<float>()},
                      compute_stream(ctx));
  return loss;
}

Tensor token_cross_entropy_cuda(Context& ctx, const LinearCrossEntropy& op) {
  const Tensor losses_T = ctx.empty(op.targets_T.shape(), DType::kF32);
  process_tokens(ctx, op, {}, losses_T);
  return losses_T;
}

void scale_gradient_cuda(const Context& ctx, const Tensor& gradient, const Tensor& factor_1) {
  if (!gradient.has_elements()) return;
  scale_in_place_cuda({.dtype = gradient.dtype(),
                       .num_elements = gradient.numel(),
                       .factor = factor_1.device_data<float>(),
                       .data = gradient.address()},
                      compute_stream(ctx));
}

}  // namespace longship
