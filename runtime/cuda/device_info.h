// What GPUs, driver and CUDA runtime are there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longship {

struct GpuInfo {
  int ordinal = 0;
  std::string name;
  std::string compute_capability;  // "9.0"
  int num_multiprocessors = 0;
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;  // -1 where it cannot be asked, such as a GPU that another process holds
  std::vector<int> peers;  // ordinals of the GPUs whose memory this one can reach directly
};

struct CudaInfo {
  bool built = false;           // this build has CUDA code
  std::string runtime_version;  // "13.0", that it was built with
  std::string driver_version;   // newest runtime that the driver can serve; empty without a driver
  std::string cudnn_version, nccl_version;  // of the libraries that were loaded
  std::string no_gpu_reason;                // in CUDA's words, if there is no usable GPU
  std::vector<GpuInfo> gpus;
};

// Never throws for want of a GPU or a driver. Takes a little memory of every GPU.
CudaInfo cuda_info();

// The GPUs that this process sees, without touching them.
struct VisibleGpus {
  std::vector<std::string> names;  // by ordinal
  std::string none_reason;         // why there is none
};
VisibleGpus visible_gpus();

// Of one that is there, as the driver gives it: "NVIDIA H200".
inline std::string gpu_name(int ordinal) {
  return visible_gpus().names.at(static_cast<size_t>(ordinal));
}

}  // namespace longship
