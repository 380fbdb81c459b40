// Matrix products on the CPU.
#pragma once

#include "runtime/ops/matmul.h"

namespace longship {

// A product whose shapes, dtypes and layouts matmul.cc has checked; no extent is 0.
struct MatmulOperands {
  Tensor a_MK, b_KN;
  MatmulAddends addends;
  Tensor c_MN;
};

// Whether the residual is c itself, in which the product is then added up.
inline bool is_same_memory(const Tensor& residual_MN, const Tensor& c_MN) {
  return residual_MN.address() == c_MN.address();
}

void matmul_cpu(const Context& ctx, const MatmulOperands& op);

}  // namespace longship
