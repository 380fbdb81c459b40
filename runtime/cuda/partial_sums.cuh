// The second half of sums over many rows: each block of a kernel has left the sum of its own.
#pragma once

#include <cstdint>

#include "runtime/cuda/launch.cuh"

namespace longship {

// sums[c] = sum over b of partials[b][c]: 32 threads a column, then a tree. Sum: float or double,
// what they are added up in.
template <class Sum>
__global__ void __launch_bounds__(1024)
    partial_sums_kernel(const float* partials_BC, int num_partials, int64_t C, float* sums_C) {
  __shared__ Sum sums[32][33];
  constexpr int kAhead = 9;  // loads on their way: all of those for two blocks on 132 processors
  const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x;
  const float* from = partials_BC + threadIdx.y * C + column;
  Sum sum = 0;
  wait_for_previous_kernel();
  if (column < C)
#pragma unroll 1
    for (int left = num_partials - static_cast<int>(threadIdx.y); left > 0; left -= 32 * kAhead) {
      float parts[kAhead];
#pragma unroll
      for (int r = 0; r < kAhead; ++r, from += 32 * C) parts[r] = left > 32 * r ? *from : 0.0f;
#pragma unroll
      for (int r = 0; r < kAhead; ++r) sum += parts[r];
    }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  // Now a warp a column.
  sum = sums[threadIdx.x][threadIdx.y];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  const int64_t own = int64_t{blockIdx.x} * 32 + threadIdx.y;
  if (threadIdx.x == 0 && own < C) sums_C[own] = static_cast<float>(sum);
}

// The same bits on any GPU.
template <class Sum>
void add_partial_sums(const float* partials_BC, int64_t num_partials, int64_t num_columns,
                      float* sums_C, cudaStream_t stream) {
  launch_kernel(partial_sums_kernel<Sum>,
                {.grid = static_cast<unsigned>((num_columns + 31) / 32),
                 .block = dim3(32, 32),
                 .starts_early = true},
                stream, "launch partial sums", partials_BC, static_cast<int>(num_partials),
                num_columns, sums_C);
}

}  // namespace longship
