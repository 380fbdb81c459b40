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

constexpr int kRows = 2;  // of a thread at a time

template <class Y, class O, class P, int kSize>
__global__ void __launch_bounds__(RowLanes::kThreads)
    merge_kernel(const __grid_constant__ MergePartialsCuda op, int num_lanes) {
  const int64_t V = op.row_length;
  for_each_lane_rows<kRows>(op.num_rows, num_lanes, [&](const int64_t(&rows)[kRows], int lane) {
    float lse[kRows], part_lse[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool exists = rows[r] < op.num_rows;
      lse[r] = exists ? op.lse_R[rows[r]] : -INFINITY;
      part_lse[r] = exists ? op.part_lse_R[rows[r]] : -INFINITY;
    }
    __syncwarp(lane_group(num_lanes));  // all have read what lane 0 replaces
    bool changes[kRows], has_part[kRows], has_o[kRows];
    Weights weights[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      has_part[r] = part_lse[r] != -INFINITY;
      changes[r] = rows[r] < op.num_rows && (has_part[r] || op.out_RV != op.o_RV);
      has_o[r] = changes[r] && (!has_part[r] || lse[r] != -INFINITY);
      weights[r] = {1, 1, has_part[r] ? part_lse[r] : lse[r]};
      if (has_part[r] && has_o[r]) weights[r] = merge_weights(lse[r], part_lse[r]);
      if (lane == 0 && changes[r]) op.lse_R[rows[r]] = weights[r].lse;
    }
    for (int64_t v = lane * kSize; v < V; v += num_lanes * kSize) {
      // A side without keys is not read: anything may be there.
      float o[kRows][kSize] = {}, part[kRows][kSize] = {};
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int64_t at = rows[r] * V + v;
        if (has_o[r]) load_elements(static_cast<const O*>(op.o_RV) + at, o[r]);
        if (has_part[r]) load_elements(static_cast<const P*>(op.part_RV) + at, part[r]);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kSize; ++i)
          o[r][i] = o[r][i] * weights[r].keep + part[r][i] * weights[r].join;
        if (changes[r]) store_elements(o[r], static_cast<Y*>(op.out_RV) + rows[r] * V + v);
      }
    }
  });
}

template <class Y, class O, class P, int kSize>
void launch(const MergePartialsCuda& op, StreamHandle stream) {
  const RowLanes lanes(op.num_rows, op.row_length, kSize, kRows);
  merge_kernel<Y, O, P, kSize>
      <<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
}

template <class Y, class O, class P>
void merge(const MergePartialsCuda& op, StreamHandle stream) {
  const bool whole = has_whole_lanes(op.row_length, {op.out_RV, op.o_RV, op.part_RV});
  whole ? launch<Y, O, P, kSharedLaneElements<Y, O, P>>(op, stream)
        : launch<Y, O, P, 1>(op, stream);
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
