// What tests of ops on a GPU share: inputs that every dtype holds exactly, and memory in which an
// output that was left out is found.
#pragma once

#include "runtime/gpu.h"
#include "tests/support/gradient_check.h"

namespace longship::testing {

// GPU 0 with memory that is NaN until it is written.
inline Context poisoned_gpu() {
  const Context ctx = gpu_context(0);
  ctx.memory->set_poison(true);
  return ctx;
}

// Normals of this standard deviation, in fp64 on the host, with values that bf16 holds exactly.
inline Tensor bf16_values(Shape shape, uint64_t seed, double scale = 1.0) {
  Context ctx;
  return random_tensor(ctx, std::move(shape), seed, scale).to(DType::kBF16).to(DType::kF64);
}

// A copy in another dtype, in ctx.memory.
inline Tensor copy_on(const Context& ctx, const Tensor& tensor, DType dtype) {
  return tensor.to(dtype).to(ctx.memory);
}

inline Tensor on_host(const Tensor& tensor) {
  return tensor.to(std::make_shared<Memory>());
}

// Of results whose inputs are exact: the rounding of the result, and for fp32 of its terms.
inline double relative_bound(DType dtype) {
  return dtype == DType::kF32 ? 1e-6 : 4e-3;
}

}  // namespace longship::testing
