// R rows (tokens x heads), V values a row.
#include "runtime/ops/merge_partials_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

// Of both sides in the result; 0 of one that is not read, because it may hold anything.
struct Weights {
  float keep = 1, join = 0;
};

// Replaces `lse` by the merged one. From the difference of both sides, because a large lse is
// rounded too coarsely for exp.
__device__ Weights merge_lse(float& lse, float part_lse) {
  if (part_lse == -INFINITY) return {1, 0};
  if (lse == -INFINITY) {
    lse = part_lse;
    return {0, 1};
  }
  const float ratio = expf(-fabsf(lse - part_lse));
  const float more = __fdividef(1.0f, 1 + ratio), less = ratio * more;
  const bool first = lse > part_lse;
  lse = fmaxf(lse, part_lse) + log1pf(ratio);
  return {first ? more : less, first ? less : more};
}

constexpr int kRows = 4;  // of a thread at a time

// Lane r finds the weights of the r-th row of the group: there are at least kRows lanes. Rows that
// do not exist are the last one, and rows that are not read the first one, which the cache has:
// branches would keep loads from running together.
template <class Y, class O, class P, int kSize>
__global__ void __launch_bounds__(RowLanes::kThreads)
    merge_kernel(const __grid_constant__ MergePartialsCuda op, int num_lanes) {
  const int64_t V = op.row_length, R = op.num_rows;
  const bool in_place = op.out_RV == op.o_RV;
  for_each_lane_rows<kRows>(R, num_lanes, [&](const int64_t(&rows)[kRows], int lane) {
    const int64_t own = rows[0] + min(lane, kRows - 1) * (rows[1] - rows[0]);
    float lse = op.lse_R[min(own, R - 1)];
    const Weights weights = merge_lse(lse, op.part_lse_R[min(own, R - 1)]);
    if (lane < kRows && own < R) op.lse_R[own] = lse;
    float keep[kRows], join[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      keep[r] = __shfl_sync(lane_group(num_lanes), weights.keep, r, num_lanes);
      join[r] = __shfl_sync(lane_group(num_lanes), weights.join, r, num_lanes);
    }
    for (int64_t v = int64_t{lane} * kSize; v < V; v += int64_t{num_lanes} * kSize) {
      float o[kRows][kSize], part[kRows][kSize];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = min(rows[r], R - 1);
        load_elements(static_cast<const O*>(op.o_RV) + (keep[r] == 0 ? 0 : row) * V + v, o[r]);
        load_elements(static_cast<const P*>(op.part_RV) + (join[r] == 0 ? 0 : row) * V + v,
                      part[r]);
      }
      asm volatile("" ::: "memory");  // or loads would move to where their row is stored
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        // The same rounding for all dtypes: not left to how the compiler contracts a sum.
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          const float joined = join[r] == 0 ? 0 : __fmul_rn(part[r][i], join[r]);
          o[r][i] = __fmaf_rn(keep[r] == 0 ? 0 : o[r][i], keep[r], joined);
        }
        if (rows[r] < R && (join[r] != 0 || !in_place))
          store_elements(o[r], static_cast<Y*>(op.out_RV) + rows[r] * V + v);
      }
    }
  });
}

template <class Y, class O, class P, int kSize>
void launch(const MergePartialsCuda& op, StreamHandle stream) {
  const RowLanes lanes(op.num_rows, std::max<int64_t>(op.row_length, kRows * kSize), kSize, kRows);
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
