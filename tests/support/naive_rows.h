// What layers do to the features of a token, as their formulas say, number by number in fp64: the
// parts of the oracles of mixers.
#pragma once

#include "runtime/context.h"

namespace longship::testing {

// x [T, I] to [T, O] by weight [O, I] and, unless it is undefined, bias [O].
Tensor naive_projection(const Context& ctx, const Tensor& x_TI, const Tensor& weight_OI,
                        const Tensor& bias_O = {});

// x[0, size) divided by its root mean square, times weight.
void naive_rms_norm(double* x, int64_t size, const double* weight, double eps);

// Turns the pairs (x[i], x[i + R / 2]) by position theta^(-2 i / R).
void naive_rope(double* x, int64_t R, int64_t position, double theta);

}  // namespace longship::testing
