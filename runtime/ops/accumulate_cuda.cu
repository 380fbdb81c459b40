// R rows of X elements.
#include "runtime/ops/accumulate_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

constexpr int kThreads = 256;
constexpr int kParts = 4;  // of kSize elements, which a thread has on their way at a time

template <class P, int kSize>
__global__ void __launch_bounds__(kThreads)
    accumulate_kernel(const __grid_constant__ AccumulateCuda op) {
  const uint64_t row_parts = op.row_length / kSize, count = op.num_rows * row_parts;
  const uint64_t first = uint64_t{blockIdx.x} * (kThreads * kParts) + threadIdx.x;
  float* to[kParts];
  float sum[kParts][kSize], part[kParts][kSize];
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    // The last part again rather than a branch, which would keep loads from running together.
    const uint64_t n = min(first + p * kThreads, count - 1), row = n / row_parts;
    to[p] = op.sum_RX + row * op.sum_stride + (n - row * row_parts) * kSize;
    load_elements(to[p], sum[p]);
    load_elements(static_cast<const P*>(op.part_RX) + n * kSize, part[p]);
  }
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) sum[p][i] += part[p][i];
    if (first + p * kThreads < count) store_elements(sum[p], to[p]);
  }
}

template <class P, int kSize>
void launch(const AccumulateCuda& op, StreamHandle stream) {
  const int64_t count = op.num_rows * (op.row_length / kSize), per_block = kThreads * kParts;
  const auto blocks = static_cast<unsigned>((count + per_block - 1) / per_block);
  accumulate_kernel<P, kSize><<<blocks, kThreads, 0, stream>>>(op);
}

template <class P>
void accumulate(const AccumulateCuda& op, StreamHandle stream) {
  constexpr int kSize = kSharedLaneElements<P, float>;
  const bool whole =
      has_whole_lanes(op.row_length, {op.sum_RX, op.part_RX}) && op.sum_stride % kLaneElements == 0;
  whole ? launch<P, kSize>(op, stream) : launch<P, 1>(op, stream);
}

}  // namespace

void accumulate_cuda(const AccumulateCuda& op, StreamHandle stream) {
  if (op.num_rows == 0 || op.row_length == 0) return;
  dispatch_cuda_dtype(op.part_dtype, [&](auto part) { accumulate<decltype(part)>(op, stream); });
  check_launch("accumulate");
}

}  // namespace longship
