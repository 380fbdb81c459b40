// y = x w^T (+ bias), computed by matmul().
// x [T, I], w [O, I] (as in PyTorch and Llama checkpoints), bias [O], y [T, O] in x's dtype.
// Backward: dx = dy w (x's dtype); dw += dy^T x and dbias += sum_T dy in the gradient's dtype
// (fp32).
#pragma once

#include "runtime/autograd/tape.h"
#include "runtime/ops/matmul.h"

namespace longship {

Variable linear(Context& ctx, const Variable& x_TI, const Variable& w_OI,
                const Variable& bias_O = {});

}  // namespace longship
