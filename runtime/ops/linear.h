// y = x w^T (+ bias), computed by matmul().
// x [T, I], w [O, I] (as in PyTorch and Llama checkpoints), bias [O], y [T, O] in x's dtype.
// Backward: dx = dy w, dw = dy^T x and dbias = sum_T dy, each added to the gradient that is there
// in that gradient's dtype (x: x's dtype, parameters: fp32) and rounded once.
#pragma once

#include "runtime/autograd/tape.h"
#include "runtime/ops/matmul.h"

namespace longship {

Variable linear(Context& ctx, const Variable& x_TI, const Variable& w_OI,
                const Variable& bias_O = {});

// y = residual + x w^T (+ bias), rounded once, with residual [T, O] in x's dtype; an undefined
// residual is left out.
Variable linear_add(Context& ctx, const Variable& residual_TO, const Variable& x_TI,
                    const Variable& w_OI, const Variable& bias_O = {});

}  // namespace longship
