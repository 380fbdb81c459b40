// Launches that ask for more than a grid: clusters, much shared memory, an early start.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string_view>

#include "runtime/cuda/cuda_error.h"

namespace longship {

struct Launch {
  dim3 grid, block;
  int64_t cluster_blocks = 1;  // that form a cluster, along x
  size_t shared_bytes = 0;     // dynamic, of each block
  // Blocks may start while the kernel before it on the stream still runs, once all of its blocks
  // have called allow_next_kernel() or ended. They call wait_for_previous_kernel() before they
  // touch anything that it reads or writes.
  bool starts_early = false;
};

// Enqueues `kernel`. `name` completes "cannot ...", as for check_cuda().
template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), const Launch& launch, cudaStream_t stream,
                   std::string_view name, const Arguments&... arguments) {
  constexpr int64_t kPortableClusterBlocks = 8;
  constexpr size_t kSharedBytesForAll = 48 << 10;
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = launch.grid;
  config.blockDim = launch.block;
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (launch.cluster_blocks > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(launch.cluster_blocks);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
  if (launch.starts_early) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (launch.cluster_blocks > kPortableClusterBlocks)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
               name);
  if (launch.shared_bytes > kSharedBytesForAll)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(launch.shared_bytes)),
               name);
  check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), name);
}

__device__ inline void allow_next_kernel() {
  cudaTriggerProgrammaticLaunchCompletion();
}
// What the kernel before wrote is then there. Nothing where this one was launched without
// starts_early.
__device__ inline void wait_for_previous_kernel() {
  cudaGridDependencySynchronize();
}

}  // namespace longship
