// R rows (tokens x heads), V values a row.
#include "runtime/ops/merge_partials_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

struct Weights {
  float keep, join;
  float lse;  // merged
};

// From the difference of both sides, because a large lse is rounded too coarsely for exp.
__device__ Weights merge_weights(float lse, float part_lse) {
  const float ratio = expf(-fabsf(lse - part_lse));
  const float more = 1 / (1 + ratio), less = ratio / (1 + ratio);
  const bool first = lse > part_lse;
  return {first ? more : less, first ? less : more, fmaxf(lse, part_lse) + log1pf(ratio)};
}

template <class Y, class O, class P, int kSize>
__global__ void __launch_bounds__(RowLanes::kThreads)
    merge_kernel(const __grid_constant__ MergePartialsCuda op, int num_lanes) {
  const int64_t V = op.row_length;
  for_each_lane_row(op.num_rows, num_lanes, [&](int64_t row, int lane) {
    const float lse = op.lse_R[row], part_lse = op.part_lse_R[row];
    __syncwarp(lane_group(num_lanes));  // all have read what lane 0 replaces
    const bool has_part = part_lse != -INFINITY, has_o = !has_part || lse != -INFINITY;
    if (!has_part && op.out_RV == op.o_RV) return;
    Weights weights = {1, 1, has_part ? part_lse : lse};
    if (has_part && has_o) weights = merge_weights(lse, part_lse);
    if (lane == 0) op.lse_R[row] = weights.lse;
    const O* const o_row = static_cast<const O*>(op.o_RV) + row * V;
    const P* const part_row = static_cast<const P*>(op.part_RV) + row * V;
    Y* const out_row = static_cast<Y*>(op.out_RV) + row * V;
    for (int64_t v = lane * kSize; v < V; v += num_lanes * kSize) {
      // A side without keys is not read: anything may be there.
      float o[kSize] = {}, part[kSize] = {};
      if (has_o) load_elements(o_row + v, o);
      if (has_part) load_elements(part_row + v, part);
#pragma unroll
      for (int i = 0; i < kSize; ++i) o[i] = o[i] * weights.keep + part[i] * weights.join;
      store_elements(o, out_row + v);
    }
  });
}

template <class Y, class O, class P>
void merge(const MergePartialsCuda& op, StreamHandle stream) {
  if (has_whole_lanes(op.row_length, {op.out_RV, op.o_RV, op.part_RV})) {
    constexpr int kSize = kSharedLaneElements<Y, O, P>;
    const RowLanes lanes(op.num_rows, op.row_length, kSize);
    merge_kernel<Y, O, P, kSize>
        <<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
  } else {
    const RowLanes lanes(op.num_rows, op.row_length, 1);
    merge_kernel<Y, O, P, 1>
        <<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
  }
}

}  // namespace

void merge_partials_cuda(const MergePartialsCuda& op, StreamHandle stream) {
  if (op.num_rows == 0) return;
  dispatch_cuda_dtype(op.out_dtype, [&](auto out) {
    dispatch_cuda_dtype(op.o_dtype, [&](auto o) {
      dispatch_cuda_dtype(op.part_dtype, [&](auto part) {
        merge<decltype(out), decltype(o), decltype(part)>(op, stream);
      });
    });
  });
  check_launch("merge_partials");
}

}  // namespace longship
