// Matrix products for ops. On the CPU: oneDNN for fp32 and bf16 (fp32 accumulation), packed blocks
// for fp64. On a GPU: cuBLASLt for fp32 (never TF32) and bf16.
//
//   c_MN (+)= a_MK b_KN (+ bias_N) (+ residual_MN)
//
// On the CPU the product is cut into tiles that depend on its shape only, and one thread computes a
// tile, so the result has the same bits for any number of threads. On a GPU the same operands in
// the same layout give the same bits.
#pragma once

#include "runtime/context.h"

namespace longship {

// a, b and c are 2-D with one unit stride: transposed views and slices cost no copy. a and b are
// fp32, bf16 or fp64 alike; c has their dtype, or fp32 for bf16 operands. `accumulate` adds to c,
// else c is overwritten. Any extent may be 0.
void matmul(const Context& ctx, const Tensor& a_MK, const Tensor& b_KN, const Tensor& c_MN,
            bool accumulate = false);

// What is added to a product before it is rounded, in c's dtype; undefined members add nothing.
struct MatmulAddends {
  Tensor bias_N;       // packed, added to every row; needs K > 0 and c with unit stride along N
  Tensor residual_MN;  // packed along the dimension that c is; c itself, or apart from it
};
// c_MN = a_MK b_KN + addends, rounded once.
void matmul_add(const Context& ctx, const Tensor& a_MK, const Tensor& b_KN,
                const MatmulAddends& addends, const Tensor& c_MN);

// c_MN = a_MK b_KN (+ residual_MN), for an fp32 c with unit stride along N, which may fill sums_M
// (fp32) with the sums of a over K on the way. Returns whether it did: only a GPU's library does,
// and not for every layout.
bool matmul_with_row_sums(const Context& ctx, const Tensor& a_MK, const Tensor& b_KN,
                          const Tensor& residual_MN, const Tensor& c_MN, const Tensor& sums_M);

}  // namespace longship
