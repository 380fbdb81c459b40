// Matrix products for ops: oneDNN for fp32 and bf16 (fp32 accumulation), packed blocks for fp64.
//
//   c_MN (+)= a_MK b_KN (+ bias_N)
//
// The product is cut into tiles that depend on its shape only, and one thread computes a tile, so
// the result has the same bits for any number of threads.
#pragma once

#include "runtime/context.h"

namespace longship {

// a, b and c are 2-D with one unit stride: transposed views and slices cost no copy. a and b are
// fp32, bf16 or fp64 alike; c has their dtype, or fp32 for bf16 operands. `accumulate` adds to c,
// else c is overwritten. Any extent may be 0.
void matmul(const Context& ctx, const Tensor& a_MK, const Tensor& b_KN, const Tensor& c_MN,
            bool accumulate = false);

// c_MN = a_MK b_KN + bias_N, all of one dtype, rounded once; c has unit stride along N.
void matmul_bias(const Context& ctx, const Tensor& a_MK, const Tensor& b_KN, const Tensor& bias_N,
                 const Tensor& c_MN);

}  // namespace longship
