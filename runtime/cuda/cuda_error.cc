#include "runtime/cuda/cuda_error.h"

#include <cuda_runtime_api.h>

#include "runtime/device.h"
#include "runtime/error.h"

namespace longship {
namespace {

ErrorCode code_of(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return ErrorCode::kOutOfMemory;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoKernelImageForDevice:
      return ErrorCode::kConfig;
    default:
      return ErrorCode::kInternal;
  }
}

std::string advice(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "use a shorter context, more ranks in `sp`, or train.recompute: BLOCK; `nvidia-smi` "
             "shows who else uses this GPU";
    case cudaErrorNoKernelImageForDevice:
      return "Longship's kernels are made for compute capability 9.0 (H100, H200)";
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:
      return "`longship inspect --devices` shows which GPUs and drivers are there";
    default:
      return "the operation or an earlier kernel of this GPU failed; CUDA_LAUNCH_BLOCKING=1 or "
             "compute-sanitizer finds out which";
  }
}

std::string current_gpu() {
  int ordinal = 0;
  return cudaGetDevice(&ordinal) == cudaSuccess ? device_name({DeviceKind::kCuda, ordinal})
                                                : "no GPU";
}

}  // namespace

void check_cuda(int status, std::string_view operation) {
  if (status == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(status);
  cudaGetLastError();  // an error that can be survived is not reported again by the next call
  throw Error(code_of(error),
              {.what = fmt::format("{}: cannot {}", current_gpu(), operation),
               .found = fmt::format("{}: {}", cudaGetErrorName(error), cudaGetErrorString(error)),
               .next = advice(error)});
}

void check_launch(std::string_view kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) check_cuda(status, fmt::format("launch kernel {}", kernel));
}

}  // namespace longship
