// R rows of X elements.
#include "runtime/ops/accumulate_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

template <class P, int kSize>
__global__ void __launch_bounds__(RowLanes::kThreads)
    accumulate_kernel(const __grid_constant__ AccumulateCuda op, int num_lanes) {
  for_each_lane_row(op.num_rows, num_lanes, [&](int64_t row, int lane) {
    float* const sum_row = op.sum_RX + row * op.sum_stride;
    const P* const part_row = static_cast<const P*>(op.part_RX) + row * op.row_length;
    for (int64_t x = lane * kSize; x < op.row_length; x += num_lanes * kSize) {
      float sum[kSize], part[kSize];
      load_elements<float, kSize>(sum_row + x, sum);
      load_elements<P, kSize>(part_row + x, part);
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum[i] += part[i];
      store_elements<float, kSize>(sum, sum_row + x);
    }
  });
}

template <class P>
void accumulate(const AccumulateCuda& op, StreamHandle stream) {
  if (has_whole_lanes(op.row_length, {op.sum_RX, op.part_RX}) &&
      op.sum_stride % kLaneElements == 0) {
    const RowLanes lanes(op.num_rows, op.row_length, kLaneElements);
    accumulate_kernel<P, kLaneElements>
        <<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
  } else {
    const RowLanes lanes(op.num_rows, op.row_length, 1);
    accumulate_kernel<P, 1>
        <<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
  }
}

}  // namespace

void accumulate_cuda(const AccumulateCuda& op, StreamHandle stream) {
  if (op.num_rows == 0 || op.row_length == 0) return;
  dispatch_cuda_dtype(op.part_dtype, [&](auto part) { accumulate<decltype(part)>(op, stream); });
  check_launch("accumulate");
}

}  // namespace longship
