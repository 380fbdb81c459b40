// R rows (tokens x heads), V values a row.
#include "runtime/ops/softmax_delta_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

template <class O, class G, int kSize>
__global__ void __launch_bounds__(RowLanes::kThreads)
    delta_kernel(const __grid_constant__ SoftmaxDeltaCuda op, int num_lanes) {
  const int64_t V = op.row_length;
  for_each_lane_row(op.num_rows, num_lanes, [&](int64_t row, int lane) {
    const O* const o_row = static_cast<const O*>(op.o_RV) + row * V;
    const G* const do_row = static_cast<const G*>(op.do_RV) + row * V;
    float sum = 0;
    for (int64_t v = lane * kSize; v < V; v += num_lanes * kSize) {
      float o[kSize], gradient[kSize];
      load_elements(o_row + v, o);
      load_elements(do_row + v, gradient);
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum += o[i] * gradient[i];
    }
    sum = lane_sum(sum, num_lanes);
    if (lane == 0) op.delta_R[row] = sum;
  });
}

template <class O, class G>
void delta(const SoftmaxDeltaCuda& op, StreamHandle stream) {
  if (has_whole_lanes(op.row_length, {op.o_RV, op.do_RV})) {
    constexpr int kSize = kSharedLaneElements<O, G>;
    const RowLanes lanes(op.num_rows, op.row_length, kSize);
    delta_kernel<O, G, kSize>
        <<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
  } else {
    const RowLanes lanes(op.num_rows, op.row_length, 1);
    delta_kernel<O, G, 1><<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
  }
}

}  // namespace

void softmax_delta_cuda(const SoftmaxDeltaCuda& op, StreamHandle stream) {
  if (op.num_rows == 0) return;
  dispatch_cuda_dtype(op.o_dtype, [&](auto o) {
    dispatch_cuda_dtype(op.do_dtype,
                        [&](auto gradient) { delta<decltype(o), decltype(gradient)>(op, stream); });
  });
  check_launch("softmax_delta");
}

}  // namespace longship
