// C chunks of all gradients together.
#include "optim/gradient_norm_cuda.h"

#include "optim/tensor_chunks.cuh"
#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

constexpr int kThreads = 256;
constexpr int kTotalThreads = 1024;
constexpr int kGroup = 4;  // elements that one thread takes together

// Of all threads of the block, in an order that is always the same; valid in thread 0.
template <int kBlockThreads>
__device__ double block_sum(double value) {
  __shared__ double warps[kBlockThreads / 32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0)
    for (double warp : warps) sum += warp;
  return sum;
}

__device__ void add_squares(const float (&values)[kGroup], double& sum) {
#pragma unroll
  for (float value : values) sum = fma(static_cast<double>(value), static_cast<double>(value), sum);
}

__global__ void __launch_bounds__(kThreads)
    chunk_kernel(const GradientEntry* entries_N, int64_t num_entries, double* squares_C) {
  double sum = 0;
  int64_t place = 0;
  auto add = [&](const GradientEntry& entry, int64_t begin, int64_t end) {
    place = entry.first_square + begin / kGradientChunk;
    const float* const data = entry.data + begin + threadIdx.x * kGroup;
    if (end - begin == kGradientChunk && reinterpret_cast<uintptr_t>(data) % 16 == 0) {
#pragma unroll 8
      for (int i = 0; i < kGradientChunk; i += kThreads * kGroup) {
        float values[kGroup];
        load_elements(data + i, values);
        add_squares(values, sum);
      }
      return;
    }
    // The same elements in the same order, one at a time.
    const int64_t count = end - begin - threadIdx.x * kGroup;
    for (int64_t i = 0; i < count; i += kThreads * kGroup) {
      float values[kGroup] = {};
      for (int j = 0; j < kGroup; ++j)
        if (i + j < count) values[j] = data[i + j];
      add_squares(values, sum);
    }
  };
  for_own_chunk(entries_N, num_entries, kGradientChunk, add);
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) squares_C[place] = sum;
}

__global__ void __launch_bounds__(kTotalThreads)
    total_kernel(const double* squares_C, int64_t num_chunks, double* total_1) {
  double sum = 0;
  for (int64_t chunk = threadIdx.x; chunk < num_chunks; chunk += kTotalThreads)
    sum += squares_C[chunk];
  sum = block_sum<kTotalThreads>(sum);
  if (threadIdx.x == 0) *total_1 = sum;
}

}  // namespace

void sum_chunk_squares_cuda(const GradientEntry* entries_N, int64_t num_entries, int64_t num_chunks,
                            double* squares_C, StreamHandle stream) {
  if (num_chunks == 0) return;
  chunk_kernel<<<static_cast<unsigned>(num_chunks), kThreads, 0, stream>>>(entries_N, num_entries,
                                                                           squares_C);
  check_launch("gradient norm");
}

void add_chunk_squares_cuda(const double* squares_C, int64_t num_chunks, double* total_1,
                            StreamHandle stream) {
  total_kernel<<<1, kTotalThreads, 0, stream>>>(squares_C, num_chunks, total_1);
  check_launch("sum of the gradient norm");
}

}  // namespace longship
