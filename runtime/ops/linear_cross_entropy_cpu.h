// The language-model head and its loss on the CPU, for every floating dtype.
#pragma once

#include "runtime/context.h"

namespace longship {

// As linear_cross_entropy.cc has checked it; h is contiguous.
struct LinearCrossEntropy {
  Tensor h_TE, head_VE, targets_T;
  Tensor weights_T;  // undefined for the losses of tokens
  int64_t chunk_tokens = 0;
};

// For an incoming gradient of 1; filled. Undefined where not wanted.
struct LossGradients {
  Tensor dh_TE, dhead_VE;
};

// Returns the weighted sum [1].
Tensor linear_cross_entropy_cpu(Context& ctx, const LinearCrossEntropy& op,
                                const LossGradients& gradients);
// Returns the loss of every token, [T] fp32.
Tensor token_cross_entropy_cpu(Context& ctx, const LinearCrossEntropy& op);

// gradient *= factor [1], in place.
void scale_gradient_cpu(const Context& ctx, const Tensor& gradient, const Tensor& factor_1);

}  // namespace longship
