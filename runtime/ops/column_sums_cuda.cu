#include "runtime/ops/column_sums_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/partial_sums.cuh"
#include "runtime/cuda/vector16.cuh"

namespace longship {
namespace {

constexpr int kLanes = 32;  // neighbours along a row
constexpr int kRows = 8;    // of a block at a time

// Block (c, b): kLanes times kSize columns, of the rows of partial sum b. kSize is 1, or that of a
// vector.
template <class T, int kSize>
__global__ void __launch_bounds__(kLanes* kRows)
    block_sums_kernel(const __grid_constant__ ColumnSumsCuda op) {
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

template <class T, int kSize>
void launch_block_sums(const ColumnSumsCuda& op, int64_t num_partials, StreamHandle stream) {
  const dim3 grid(static_cast<unsigned>((op.num_columns + kLanes * kSize - 1) / (kLanes * kSize)),
                  static_cast<unsigned>(num_partials));
  block_sums_kernel<T, kSize><<<grid, dim3(kLanes, kRows), 0, stream>>>(op);
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
      launch_block_sums<T, kSize>(op, num_partials, stream);
    } else {
      launch_block_sums<T, 1>(op, num_partials, stream);
    }
  });
  add_partial_sums<double>(op.partials_BC, num_partials, op.num_columns, op.sums_C, stream);
}

}  // namespace longship
