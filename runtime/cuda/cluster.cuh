// Thread block clusters: blocks that run at the same time and may write each other's shared memory.
#pragma once

#include <cooperative_groups.h>

namespace longship {

inline constexpr int kMostClusterBlocks = 16;  // on an H100 or H200

// The sum over the blocks of the cluster of `value`, which all threads of a block have alike, in
// the order of the blocks. Every thread calls; `parity` alternates from call to call. Before the
// first call the blocks have to meet.
__device__ inline float cluster_sum(float value, int parity) {
  __shared__ float values[2][kMostClusterBlocks];
  const auto cluster = cooperative_groups::this_cluster();
  const unsigned num_blocks = cluster.num_blocks();
  if (threadIdx.x < num_blocks)
    *cluster.map_shared_rank(&values[parity][cluster.block_rank()], threadIdx.x) = value;
  // One barrier a call is enough: the other half may still be read, this one no more.
  cluster.sync();
  float sum = 0;
  for (unsigned block = 0; block < num_blocks; ++block) sum += values[parity][block];
  return sum;
}

}  // namespace longship
