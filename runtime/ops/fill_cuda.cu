#include "runtime/ops/fill_cuda.h"

#include <algorithm>

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/vector16.cuh"

namespace longship {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T* elements, int64_t count, float value) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step)
    elements[i] = from_float<T>(value);
}

}  // namespace

void fill_cuda(const FillCuda& op, StreamHandle stream) {
  if (op.num_elements == 0) return;
  const int64_t blocks =
      std::min<int64_t>((op.num_elements + kThreads - 1) / kThreads, int64_t{1} << 16);
  dispatch_cuda_dtype(op.dtype, [&](auto tag) {
    using T = decltype(tag);
    fill_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
        static_cast<T*>(op.elements), op.num_elements, op.value);
  });
  check_launch("fill");
}

}  // namespace longship
