// y = x * sigmoid(gate), elementwise on tensors of one shape and dtype: the output gate of softmax
// attention (Qiu et al. 2025, arXiv 2505.06708). Computed in fp32 (fp64).
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable sigmoid_gate(Context& ctx, const Variable& x, const Variable& gate);

}  // namespace longship
