// T tokens, H heads, R = T H rows of V values, B blocks of tokens.
#include "runtime/ops/sink_logit_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

constexpr int kRows = 4;    // of a thread of the kernel that adds, at a time
constexpr int kHeads = 32;  // of a block of the kernels that sum
constexpr int kSlices = 8;  // of its tokens

// Lane r finds what the r-th row of the group keeps of itself: there are at least kRows lanes. Rows
// beyond the last one are the last one again, and nothing comes of them: branches would keep loads
// from running together.
template <class O, int kSize>
__global__ void __launch_bounds__(RowLanes::kThreads)
    add_kernel(const __grid_constant__ AddSinkLogitCuda op, int num_lanes) {
  const int64_t V = op.row_length, R = op.num_rows;
  for_each_lane_rows<kRows>(R, num_lanes, [&](const int64_t(&rows)[kRows], int lane) {
    const int64_t own = rows[0] + min(lane, kRows - 1) * (rows[1] - rows[0]);
    const float lse = op.lse_R[min(own, R - 1)];
    const float sink = op.sink_H[min(own, R - 1) % op.num_heads];
    O* o_V[kRows];
    float o[kRows][kSize];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      o_V[r] = static_cast<O*>(op.o_RV) + min(rows[r], R - 1) * V;
      load_elements(o_V[r] + min(int64_t{lane} * kSize, V - kSize), o[r]);
    }
    const bool changes = sink != -INFINITY && lse != -INFINITY;
    const float ratio = changes ? expf(-fabsf(lse - sink)) : 0;
    const float kept = changes ? __fdividef(lse > sink ? 1.0f : ratio, 1 + ratio) : 1.0f;
    if (lane < kRows && own < R && sink != -INFINITY)
      op.lse_R[own] = fmaxf(lse, sink) + log1pf(ratio);
    float keep[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      keep[r] = __shfl_sync(lane_group(num_lanes), kept, r, num_lanes);
    int64_t v = int64_t{lane} * kSize;
    while (v < V) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kSize; ++i) o[r][i] *= keep[r];
        if (rows[r] < R) store_elements(o[r], o_V[r] + v);
      }
      v += num_lanes * kSize;
      if (v >= V) break;
#pragma unroll
      for (int r = 0; r < kRows; ++r) load_elements(o_V[r] + v, o[r]);
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
    auto launch = [&]<int kSize>(std::integral_constant<int, kSize>) {
      const int64_t lane_elements = std::max<int64_t>(op.row_length, kRows * kSize);
      const RowLanes lanes(op.num_rows, lane_elements, kSize, kRows);
      add_kernel<O, kSize>
          <<<lanes.num_blocks, RowLanes::kThreads, 0, stream>>>(op, lanes.num_lanes);
    };
    if (has_whole_lanes(op.row_length, {op.o_RV})) {
      launch(std::integral_constant<int, kSharedLaneElements<O>>{});
    } else {
      launch(std::integral_constant<int, 1>{});
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
