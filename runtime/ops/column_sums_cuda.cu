#include "runtime/ops/column_sums_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/vector16.cuh"

namespace longship {
namespace {

constexpr int kLanes = 32;  // neighbours along a row
constexpr int kRows = 8;    // of a block at a time

// Block (c, b): kLanes times kSize columns, of the rows of partial sum b. kSize is 1, or that of a
// vector.
template <class T, int kSize>
__global__ void __launch_bounds__(kLanes* kRows)
    partial_sums_kernel(const __grid_constant__ ColumnSumsCuda op) {
  __shared__ float sums[kRows][kLanes * kSize];
  const int64_t C = op.num_columns;
  const int lane = static_cast<int>(threadIdx.x), group = static_cast<int>(threadIdx.y);
  const int64_t column = (int64_t{blockIdx.x} * kLanes + lane) * kSize;
  const int64_t begin = op.num_rows * blockIdx.y / gridDim.y;
  const int64_t end = op.num_rows * (blockIdx.y + 1) / gridDim.y;
  float sum[kSize] = {};
  if (column < C) {
    const T* x = static_cast<const T*>(op.x_RC) + column;
#pragma unroll 4
    for (int64_t row = begin + group; row < end; row += kRows) {
      if constexpr (kSize == 1) {
        sum[0] += to_float(x[row * C]);
      } else {
        float values[kSize];
        Vector16<T>::load(x + row * C).unpack(values);
#pragma unroll
        for (int i = 0; i < kSize; ++i) sum[i] += values[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kSize; ++i) sums[group][i * kLanes + lane] = sum[i];
  __syncthreads();
  if (group != 0 || column >= C) return;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    float total = 0;
    for (int g = 0; g < kRows; ++g) total += sums[g][i * kLanes + lane];
    op.partials_BC[blockIdx.y * C + column + i] = total;
  }
}

// 32 threads a column, then in order.
__global__ void __launch_bounds__(1024)
    add_partial_sums_kernel(const float* partials_BC, int64_t num_partials, int64_t C,
                            float* sums_C) {
  __shared__ double sums[32][33];
  const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x;
  double sum = 0;
  if (column < C)
    for (int64_t b = threadIdx.y; b < num_partials; b += 32) sum += partials_BC[b * C + column];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= C) return;
  double total = 0;
  for (int i = 0; i < 32; ++i) total += sums[i][threadIdx.x];
  sums_C[column] = static_cast<float>(total);
}

template <class T, int kSize>
void launch_partial_sums(const ColumnSumsCuda& op, int64_t num_partials, StreamHandle stream) {
  const dim3 grid(static_cast<unsigned>((op.num_columns + kLanes * kSize - 1) / (kLanes * kSize)),
                  static_cast<unsigned>(num_partials));
  partial_sums_kernel<T, kSize><<<grid, dim3(kLanes, kRows), 0, stream>>>(op);
  check_launch("partial column sums");
}

}  // namespace

void column_sums_cuda(const ColumnSumsCuda& op, StreamHandle stream) {
  if (op.num_columns == 0) return;
  const int64_t num_partials = column_sums_num_partials(op.num_rows, op.num_columns);
  dispatch_cuda_dtype(op.dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kSize = Vector16<T>::kSize;
    if (op.num_columns % kSize == 0 && is_vector_aligned(op.x_RC)) {
      launch_partial_sums<T, kSize>(op, num_partials, stream);
    } else {
      launch_partial_sums<T, 1>(op, num_partials, stream);
    }
  });
  const auto blocks = static_cast<unsigned>((op.num_columns + 31) / 32);
  add_partial_sums_kernel<<<blocks, dim3(32, 32), 0, stream>>>(op.partials_BC, num_partials,
                                                               op.num_columns, op.sums_C);
  check_launch("column sums");
}

}  // namespace longship
