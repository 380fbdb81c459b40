// Matrix products on the GPU of a context.
#pragma once

#include "runtime/cuda/gemm.h"
#include "runtime/ops/matmul_cpu.h"

namespace longship {

// Enqueues a product on the compute stream, with a workspace from ctx.memory; in memory for
// planning, only that is allocated. False, with nothing enqueued, if cuBLASLt has no kernel for it.
bool gemm_cuda(const Context& ctx, const GemmProduct& product);

// The same for operands that matmul.cc has checked; returns whether `sums_M`, if defined, was
// filled with the sums of a over K. Throws Error(kInternal) without a kernel for the product
// itself.
bool matmul_cuda(const Context& ctx, const MatmulOperands& op, const Tensor& sums_M);

}  // namespace longship
