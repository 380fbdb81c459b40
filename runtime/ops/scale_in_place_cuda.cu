#include "runtime/ops/scale_in_place_cuda.h"

#include <algorithm>

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/vector16.cuh"

namespace longship {
namespace {

constexpr int kThreads = 256;

// Vectors first, then the elements that are left; without vectors if the data is not aligned.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scale_in_place_kernel(const __grid_constant__ ScaleInPlaceCuda op, int64_t num_vectors) {
  constexpr int kSize = Vector16<T>::kSize;
  const float factor = *op.factor;
  T* const data = static_cast<T*>(op.data);
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * kThreads;
#pragma unroll 2
  for (int64_t i = first; i < num_vectors; i += step) {
    const Vector16<T> vector{*reinterpret_cast<const uint4*>(data + i * kSize)};
    float values[kSize];
    vector.unpack(values);
#pragma unroll
    for (int j = 0; j < kSize; ++j) values[j] *= factor;
    Vector16<T>::pack(values).store(data + i * kSize);
  }
  for (int64_t i = num_vectors * kSize + first; i < op.num_elements; i += step)
    data[i] = from_float<T>(to_float(data[i]) * factor);
}

}  // namespace

void scale_in_place_cuda(const ScaleInPlaceCuda& op, StreamHandle stream) {
  if (op.num_elements == 0) return;
  constexpr int64_t kMostBlocks = 132 * 8;
  dispatch_cuda_dtype(op.dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kSize = Vector16<T>::kSize;
    const int64_t num_vectors = is_vector_aligned(op.data) ? op.num_elements / kSize : 0;
    const int64_t items = std::max<int64_t>(num_vectors, op.num_elements - num_vectors * kSize);
    const int64_t blocks = std::min<int64_t>((items + kThreads - 1) / kThreads, kMostBlocks);
    scale_in_place_kernel<T>
        <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(op, num_vectors);
  });
  check_launch("scale in place");
}

}  // namespace longship
