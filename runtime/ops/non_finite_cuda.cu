#include "runtime/ops/non_finite_cuda.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "runtime/cuda/cuda_error.h"

namespace longship {
namespace {

constexpr int kThreads = 256;

// An index is an integer: its minimum is the same in whatever order the threads come.
template <class T>
__global__ void __launch_bounds__(kThreads)
    non_finite_kernel(const T* data, int64_t num_elements, unsigned long long* first) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < num_elements; i += step) {
    if (isfinite(static_cast<double>(data[i]))) continue;
    atomicMin(first, static_cast<unsigned long long>(i));
    return;
  }
}

template <class T>
void launch(const NonFiniteCuda& op, StreamHandle stream) {
  const int64_t blocks = std::min<int64_t>((op.num_elements + kThreads - 1) / kThreads, 4096);
  non_finite_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      static_cast<const T*>(op.data), op.num_elements,
      reinterpret_cast<unsigned long long*>(op.first));
  check_launch("check_finite");
}

}  // namespace

void non_finite_cuda(const NonFiniteCuda& op, StreamHandle stream) {
  if (op.num_elements == 0) return;
  switch (op.dtype) {
    case DType::kF32:
      return launch<float>(op, stream);
    case DType::kBF16:
      return launch<__nv_bfloat16>(op, stream);
    case DType::kF64:
      return launch<double>(op, stream);
    default:
      throw_unexpected_dtype(op.dtype);
  }
}

}  // namespace longship
