// Thread block clusters: blocks that run at the same time and may write each other's shared memory.
#pragma once

#include <cooperative_groups.h>

#include <string_view>

#include "runtime/cuda/cuda_error.h"

namespace longship {

inline constexpr int kPortableClusterBlocks = 8;
inline constexpr int kMostClusterBlocks = 16;  // on an H100 or H200

struct ClusterGrid {
  int64_t num_clusters = 1;
  int64_t blocks = 1;  // of each
  int threads = 1;     // of a block
};

// Enqueues `kernel`. `name` completes "cannot ...", as for check_cuda().
template <class... Parameters, class... Arguments>
void launch_clusters(void (*kernel)(Parameters...), const ClusterGrid& grid, cudaStream_t stream,
                     std::string_view name, const Arguments&... arguments) {
  cudaLaunchAttribute size = {};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim.x = static_cast<unsigned>(grid.blocks);
  size.val.clusterDim.y = size.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.num_clusters * grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.stream = stream;
  config.attrs = &size;
  config.numAttrs = 1;
  if (grid.blocks > kPortableClusterBlocks)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
               name);
  check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), name);
}

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
