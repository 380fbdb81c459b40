#include "runtime/ops/weighted_sum_cuda.h"

#include "runtime/cuda/cuda_error.h"

namespace longship {
namespace {

constexpr int kThreads = 1024;

__global__ void __launch_bounds__(kThreads)
    weighted_sum_kernel(const __grid_constant__ WeightedSumCuda op) {
  __shared__ double sums[kThreads];
  double sum = 0;
#pragma unroll 8
  for (int64_t t = threadIdx.x; t < op.num_tokens; t += kThreads) {
    const float weight = op.weights_T[t];
    if (weight != 0) sum += double{weight} * double{op.losses_T[t]};
  }
  sums[threadIdx.x] = sum;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *op.sum = static_cast<float>(sums[0]);
}

}  // namespace

void weighted_sum_cuda(const WeightedSumCuda& op, StreamHandle stream) {
  weighted_sum_kernel<<<1, kThreads, 0, stream>>>(op);
  check_launch("cross_entropy sum");
}

}  // namespace longship
