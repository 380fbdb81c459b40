// The forget gate of HGRN-2 (Qin et al. 2024, arXiv 2404.07904), to which the keys are tied:
//
//   f = floor + (1 - floor) sigmoid(a),   g = log f,   k = 1 - f
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

struct ForgetGate {
  Variable log_decay;  // in the accumulator dtype
  Variable key;        // in a's dtype
};

// Both shaped as `a` (fp32, bf16 or fp64); floor in [0, 1), rounded to their accumulator's dtype.
// Precise where f is near 0 or 1.
ForgetGate forget_gate(Context& ctx, const Variable& a, double floor);

}  // namespace longship
