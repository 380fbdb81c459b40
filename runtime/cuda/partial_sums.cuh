// The second half of sums over many rows: each block of a kernel has left the sum of its own.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace longship {

// sums[c] = sum over b of partials[b][c]: 32 threads a column, then in order. Sum: float or double,
// what they are added up in.
template <class Sum>
__global__ void __launch_bounds__(1024)
    partial_sums_kernel(const float* partials_BC, int64_t num_partials, int64_t C, float* sums_C) {
  __shared__ Sum sums[32][33];
  const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x;
  Sum sum = 0;
  if (column < C)
    for (int64_t b = threadIdx.y; b < num_partials; b += 32) sum += partials_BC[b * C + column];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= C) return;
  Sum total = 0;
  for (int i = 0; i < 32; ++i) total += sums[i][threadIdx.x];
  sums_C[column] = static_cast<float>(total);
}

// The same bits on any GPU. The caller checks the launch.
template <class Sum>
void add_partial_sums(const float* partials_BC, int64_t num_partials, int64_t num_columns,
                      float* sums_C, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((num_columns + 31) / 32);
  partial_sums_kernel<Sum>
      <<<blocks, dim3(32, 32), 0, stream>>>(partials_BC, num_partials, num_columns, sums_C);
}

}  // namespace longship
