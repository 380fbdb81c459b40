// The maximum and the sum of exponentials that a softmax needs, over all threads of a cluster.
#pragma once

#include <cmath>

#include "runtime/cuda/cluster.cuh"

namespace longship {

// exp(difference) of what is at most 0: 0 where that is below 2^-126.
__device__ inline float exponential(float difference) {
  constexpr float kLog2E = 1.44269504f;
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(difference * kLog2E));
  return power;
}

// The denominator of a softmax; by default that of no logits.
struct SoftmaxSum {
  float max = -INFINITY;
  float sum = 0;  // of exp(logit - max)

  __device__ void rescale(float most) {
    if (max != most) sum *= exponential(max - most);
    max = most;
  }

  // Of what the lanes of a warp have seen; all of them get it, and always with the same bits.
  __device__ SoftmaxSum over_warp() const {
    constexpr unsigned kAll = 0xffffffffu;
    SoftmaxSum all = *this;
    float most = max;
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(kAll, most, step));
    all.rescale(most);
    for (int step = 16; step > 0; step /= 2) all.sum += __shfl_xor_sync(kAll, all.sum, step);
    return all;
  }
};

// What `mine` of all threads of the cluster is together, for blocks of kWarps warps; all threads
// get it, and always with the same bits. Every thread calls, with `parity` alternating from call to
// call. Before the first call the blocks have to meet.
template <int kWarps>
__device__ SoftmaxSum cluster_softmax(const cooperative_groups::cluster_group& cluster,
                                      const SoftmaxSum& mine, int parity) {
  __shared__ float2 of_warps[kWarps];
  __shared__ float2 of_blocks[2][kMostClusterBlocks];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned num_blocks = cluster.num_blocks();
  SoftmaxSum part = mine.over_warp();
  if (lane == 0) of_warps[warp] = {part.max, part.sum};
  __syncthreads();
  if (warp == 0) {
    part = lane < kWarps ? SoftmaxSum{of_warps[lane].x, of_warps[lane].y} : SoftmaxSum();
    part = part.over_warp();
    if (lane < num_blocks)
      *cluster.map_shared_rank(&of_blocks[parity][cluster.block_rank()], lane) = {part.max,
                                                                                  part.sum};
  }
  // One barrier a call is enough: the other half may still be read, this one no more.
  cluster.sync();
  part = SoftmaxSum();
  if (lane < num_blocks) part = {of_blocks[parity][lane].x, of_blocks[parity][lane].y};
  return part.over_warp();
}

}  // namespace longship
