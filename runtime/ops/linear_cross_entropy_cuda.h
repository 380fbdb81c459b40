// The language-model head and its loss on the GPU of a context, for fp32 and bf16. The host never
// waits. In memory for planning, all is allocated and nothing computed.
#pragma once

#include "runtime/ops/linear_cross_entropy_cpu.h"

namespace longship {

// As their namesakes on the CPU.
Tensor linear_cross_entropy_cuda(Context& ctx, const LinearCrossEntropy& op,
                                 const LossGradients& gradients);
Tensor token_cross_entropy_cuda(Context& ctx, const LinearCrossEntropy& op);
void scale_gradient_cuda(const Context& ctx, const Tensor& gradient, const Tensor& factor_1);

}  // namespace longship
