// y = x w^T (+ bias), on oneDNN for fp32 and bf16 (fp32 accumulation), blocked loops for fp64.
// x [T, I], w [O, I] (as in PyTorch and Llama checkpoints), bias [O], y [T, O] in x's dtype.
// Backward: dx = dy w (x's dtype); dw += dy^T x and dbias += sum_T dy in the gradient's dtype
// (fp32).
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable linear(Context& ctx, const Variable& x_TI, const Variable& w_OI,
                const Variable& bias_O = {});

// Plain products for ops that need them, on the same backend. `accumulate` adds to c, else c is
// overwritten. a, b and c are 2-D, may be transposed views (one unit stride); a and b share a
// dtype, c has it too or is fp32.
//   c_MN (+)= a_MK b_KN
void matmul(const Context& ctx, const Tensor& a_MK, const Tensor& b_KN, const Tensor& c_MN,
            bool accumulate = false);

}  // namespace longship
