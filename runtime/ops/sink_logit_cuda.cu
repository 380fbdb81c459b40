// T tokens, H heads, R = T H rows of V values, B blocks of tokens.
#include "runtime/ops/sink_logit_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

constexpr int kRows = 4;    // of a thread of the kernel that adds, at a time
constexpr int kHeads = 32;  // of a block of the kernels that sum
constexpr int kSlices = 8;  // of its tokens

template <class O, int kSize>
__global__ void __launch_bounds__(RowLanes::kThreads)
    add_kernel(const __grid_constant__ AddSinkLogitCuda op, int num_lanes) {
  const int64_t V = op.row_length;
  for_each_lane_rows<kRows>(op.num_rows, num_lanes, [&](const int64_t(&rows)[kRows], int lane) {
    float lse[kRows], sink[kRows], keep[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool exists = rows[r] < op.num_rows;
      lse[r] = exists ? op.lse_R[rows[r]] : -INFINITY;
      sink[r] = exists ? op.sink_H[rows[r] % op.num_heads] : -INFINITY;
    }
    __syncwarp(lane_group(num_lanes));  // all have read what lane 0 replaces
    bool changes[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      changes[r] = sink[r] != -INFINITY && lse[r] != -INFINITY;
      const float ratio = changes[r] ? expf(-fabsf(lse[r] - sink[r])) : 0;
      keep[r] = (lse[r] > sink[r] ? 1.0f : ratio) / (1 + ratio);
      if (lane == 0 && sink[r] != -INFINITY)
        op.lse_R[rows[r]] = fmaxf(lse[r], sink[r]) + log1pf(ratio);
    }
    for (int64_t v = lane * kSize; v < V; v += num_lanes * kSize) {
      float o[kRows][kSize] = {};
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (changes[r]) load_elements(static_cast<const O*>(op.o_RV) + rows[r] * V + v, o[r]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kSize; ++i) o[r][i] *= keep[r];
        if (changes[r]) store_elements(o[r], static_cast<O*>(op.o_RV) + rows[r] * V + v);
      }
    }
  });
}

// The sum over threadIdx.y, in order, for each threadIdx.x; valid where threadIdx.y is 0.
__device__ double sum_of_slices(double value, double (&slices)[kSlices][kHeads]) {
  slices[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.y == 0)
    for (int slice = 0; slice < kSlices; ++slice) sum += slices[slice][threadIdx.x];
  return sum;
}

// Block (b, y): the tokens of partial sum b, heads from 32 y on.
__global__ void __launch_bounds__(kHeads* kSlices)
    gradient_kernel(const __grid_constant__ SinkLogitGradientCuda op) {
  __shared__ double slices[kSlices][kHeads];
  const int64_t H = op.num_heads;
  const int64_t h = int64_t{blockIdx.y} * kHeads + threadIdx.x;
  const int64_t begin = int64_t{blockIdx.x} * kSinkLogitBlockTokens;
  const int64_t end = min(begin + kSinkLogitBlockTokens, op.num_tokens);
  double sum = 0;
  // A sink of -inf has weight zero, whatever lse is: -inf of a row without keys.
  if (h < H && op.sink_H[h] != -INFINITY)
    for (int64_t t = begin + threadIdx.y; t < end; t += kSlices)
      sum -= static_cast<double>(expf(op.sink_H[h] - op.lse_TH[t * H + h])) *
             static_cast<double>(op.delta_TH[t * H + h]);
  sum = sum_of_slices(sum, slices);
  if (threadIdx.y == 0 && h < H) op.partials_BH[blockIdx.x * H + h] = sum;
}

__global__ void __launch_bounds__(kHeads* kSlices)
    add_partials_kernel(const __grid_constant__ SinkLogitGradientCuda op, int64_t num_partials) {
  __shared__ double slices[kSlices][kHeads];
  const int64_t H = op.num_heads;
  const int64_t h = int64_t{blockIdx.x} * kHeads + threadIdx.x;
  double sum = 0;
  if (h < H)
    for (int64_t b = threadIdx.y; b < num_partials; b += kSlices) sum += op.partials_BH[b * H + h];
  sum = sum_of_slices(sum, slices);
  if (threadIdx.y == 0 && h < H) op.gradient_H[h] = static_cast<float>(sum);
}

}  // namespace

void add_sink_logit_cuda(const AddSinkLogitCuda& op, StreamHandle stream) {
  if (op.num_rows == 0) return;
  dispatch_cuda_dtype(op.o_dtype, [&](auto tag) {
    using O = decltype(tag);
    if (has_whole_lanes(op.row_length, {op.o_RV})) {
      constexpr int kSize = kSharedLaneElements<O>;
      const RowLanes lanes(op.num_rows, op.row_length, kSize, kRows);
      add_kernel<O, kSize>
          <<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
    } else {
      const RowLanes lanes(op.num_rows, op.row_length, 1, kRows);
      add_kernel<O, 1><<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
    }
  });
  check_launch("add_sink_logit");
}

void sink_logit_gradient_cuda(const SinkLogitGradientCuda& op, StreamHandle stream) {
  if (op.num_heads == 0) return;
  const dim3 threads(kHeads, kSlices);
  const auto head_blocks = static_cast<unsigned>((op.num_heads + kHeads - 1) / kHeads);
  const int64_t num_partials = sink_logit_num_partials(op.num_tokens);
  if (num_partials > 0) {
    const dim3 blocks(static_cast<unsigned>(num_partials), head_blocks);
    gradient_kernel<<<blocks, threads, 0, stream>>>(op);
  }
  add_partials_kernel<<<head_blocks, threads, 0, stream>>>(op, num_partials);
  check_launch("sink_logit_gradient");
}

}  // namespace longship
