// The kernel of ops that compute each element from those at the same place.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/cuda/vector16.cuh"

namespace longship {

inline constexpr int kElementwiseThreads = 256;

template <int kInputs, int kOutputs>
struct ElementwiseArrays {
  int64_t num_elements = 0;
  const void* inputs[kInputs] = {};
  void* outputs[kOutputs] = {};
};

template <class T, int kInputs, int kOutputs, class F>
__device__ void compute_element(const ElementwiseArrays<kInputs, kOutputs>& arrays, int64_t index,
                                const F& f) {
  float in[kInputs], out[kOutputs];
#pragma unroll
  for (int i = 0; i < kInputs; ++i)
    in[i] = to_float(static_cast<const T*>(arrays.inputs[i])[index]);
  f(in, out);
#pragma unroll
  for (int i = 0; i < kOutputs; ++i)
    static_cast<T*>(arrays.outputs[i])[index] = from_float<T>(out[i]);
}

// A thread holds kVectors vectors of each input at a time, so that enough bytes are on their way.
// The elements after the last whole vector, fewer than a vector, are the first block's.
template <class T, int kVectors, int kInputs, int kOutputs, class F>
__global__ void __launch_bounds__(kElementwiseThreads)
    elementwise_kernel(const __grid_constant__ ElementwiseArrays<kInputs, kOutputs> arrays, F f) {
  using Vector = Vector16<T>;
  constexpr int kSize = Vector::kSize;
  const int64_t num_vectors = arrays.num_elements / kSize;
  const int64_t first = int64_t{blockIdx.x} * (kElementwiseThreads * kVectors) + threadIdx.x;
  Vector in[kVectors][kInputs];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int64_t vector = first + v * kElementwiseThreads;
    if (vector >= num_vectors) continue;
#pragma unroll
    for (int i = 0; i < kInputs; ++i)
      in[v][i] = Vector::load_mutable(static_cast<const T*>(arrays.inputs[i]) + vector * kSize);
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int64_t vector = first + v * kElementwiseThreads;
    if (vector >= num_vectors) continue;
    float values[kInputs][kSize], results[kOutputs][kSize];
#pragma unroll
    for (int i = 0; i < kInputs; ++i) in[v][i].unpack(values[i]);
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      float element[kInputs], result[kOutputs];
#pragma unroll
      for (int i = 0; i < kInputs; ++i) element[i] = values[i][j];
      f(element, result);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) results[i][j] = result[i];
    }
#pragma unroll
    for (int i = 0; i < kOutputs; ++i)
      Vector::pack(results[i]).store(static_cast<T*>(arrays.outputs[i]) + vector * kSize);
  }
  const int64_t last = num_vectors * kSize + threadIdx.x;
  if (blockIdx.x == 0 && last < arrays.num_elements) compute_element<T>(arrays, last, f);
}

// Without alignment.
template <class T, int kInputs, int kOutputs, class F>
__global__ void __launch_bounds__(kElementwiseThreads) unaligned_elementwise_kernel(
    const __grid_constant__ ElementwiseArrays<kInputs, kOutputs> arrays, F f) {
  const int64_t step = int64_t{gridDim.x} * kElementwiseThreads;
  for (int64_t i = int64_t{blockIdx.x} * kElementwiseThreads + threadIdx.x; i < arrays.num_elements;
       i += step)
    compute_element<T>(arrays, i, f);
}

// outputs[...][i] = f(inputs[...][i]) for arrays of T. `f` is copied to the GPU and has
// __device__ void operator()(const float (&in)[kInputs], float (&out)[kOutputs]) const.
// An output may be an input. The caller checks the launch.
template <class T, int kInputs, int kOutputs, class F>
void launch_elementwise(const ElementwiseArrays<kInputs, kOutputs>& arrays, const F& f,
                        cudaStream_t stream) {
  constexpr int kVectors = std::max(1, 4 / kInputs);
  constexpr int64_t kBlockElements = kElementwiseThreads * kVectors * Vector16<T>::kSize;
  if (arrays.num_elements == 0) return;
  const int64_t blocks = (arrays.num_elements + kBlockElements - 1) / kBlockElements;
  const bool aligned =
      std::all_of(std::begin(arrays.inputs), std::end(arrays.inputs), is_vector_aligned) &&
      std::all_of(std::begin(arrays.outputs), std::end(arrays.outputs), is_vector_aligned);
  if (aligned) {
    elementwise_kernel<T, kVectors>
        <<<static_cast<unsigned>(blocks), kElementwiseThreads, 0, stream>>>(arrays, f);
  } else {
    constexpr int64_t kMostBlocks = 1 << 16;
    unaligned_elementwise_kernel<T>
        <<<static_cast<unsigned>(std::min(blocks, kMostBlocks)), kElementwiseThreads, 0, stream>>>(
            arrays, f);
  }
}

}  // namespace longship
