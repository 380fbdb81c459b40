#include "runtime/cuda/device_info.h"

#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <nccl.h>

#include "runtime/cuda/cuda_error.h"
#include "runtime/error.h"

namespace longship {
namespace {

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// 91900 is 9.19.0, as cuDNN counts; NCCL's 22809 is 2.28.9.
std::string cudnn_version_text() {
  const size_t version = cudnnGetVersion();
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}
std::string nccl_version_text() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "";
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
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

// How many GPUs there are, or 0 and why there is none.
int count_gpus(std::string& reason) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return count;
  cudaGetLastError();  // not for the next check to find
  reason = cudaGetErrorString(status);
  return 0;
}

}  // namespace

VisibleGpus visible_gpus() {
  VisibleGpus found;
  const int count = count_gpus(found.none_reason);
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties;
    check_cuda(cudaGetDeviceProperties(&properties, ordinal), "read the properties of a GPU");
    found.names.emplace_back(properties.name);
  }
  if (count == 0 && found.none_reason.empty()) found.none_reason = "no GPU is visible";
  return found;
}

CudaInfo cuda_info() {
  CudaInfo info;
  info.built = true;
  info.cudnn_version = cudnn_version_text();
  info.nccl_version = nccl_version_text();
  int version = 0;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) info.runtime_version = version_text(version);
  if (cudaDriverGetVersion(&version) == cudaSuccess && version > 0)
    info.driver_version = version_text(version);
  const int num_gpus = count_gpus(info.no_gpu_reason);
  for (int ordinal = 0; ordinal < num_gpus; ++ordinal)
    info.gpus.push_back(gpu_info(ordinal, num_gpus));
  return info;
}

}  // namespace longship
