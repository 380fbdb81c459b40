#include "runtime/cuda/device_info.h"

#include <cuda_runtime_api.h>

#include "runtime/cuda/cuda_error.h"
#include "runtime/error.h"

namespace longship {
namespace {

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

GpuInfo gpu_info(int ordinal, int num_gpus) {
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, ordinal), "read the properties of a GPU");
  GpuInfo gpu;
  gpu.ordinal = ordinal;
  gpu.name = properties.name;
  gpu.compute_capability = fmt::format("{}.{}", properties.major, properties.minor);
  gpu.num_multiprocessors = properties.multiProcessorCount;
  gpu.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  size_t free = 0, total = 0;
  const bool known =
      cudaSetDevice(ordinal) == cudaSuccess && cudaMemGetInfo(&free, &total) == cudaSuccess;
  if (!known) cudaGetLastError();  // not for the next check to find
  gpu.free_bytes = known ? static_cast<int64_t>(free) : -1;
  for (int peer = 0; peer < num_gpus; ++peer) {
    int can_access = 0;
    if (peer != ordinal && cudaDeviceCanAccessPeer(&can_access, ordinal, peer) == cudaSuccess &&
        can_access != 0)
      gpu.peers.push_back(peer);
  }
  return gpu;
}

}  // namespace

CudaInfo cuda_info() {
  CudaInfo info;
  info.built = true;
  int version = 0;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) info.runtime_version = version_text(version);
  if (cudaDriverGetVersion(&version) == cudaSuccess && version > 0)
    info.driver_version = version_text(version);
  int num_gpus = 0;
  const cudaError_t status = cudaGetDeviceCount(&num_gpus);
  if (status != cudaSuccess) {
    cudaGetLastError();
    info.no_gpu_reason = cudaGetErrorString(status);
    return info;
  }
  for (int ordinal = 0; ordinal < num_gpus; ++ordinal)
    info.gpus.push_back(gpu_info(ordinal, num_gpus));
  return info;
}

}  // namespace longship
