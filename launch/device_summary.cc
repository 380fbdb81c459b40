#include "launch/device_summary.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace longship {
namespace {

double gibibytes(int64_t bytes) {
  return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0);
}

std::string gpu_lines(const GpuInfo& gpu) {
  const std::string free = gpu.free_bytes < 0
                               ? "busy or not accessible"
                               : fmt::format("{:.1f} GiB free", gibibytes(gpu.free_bytes));
  const std::string peers =
      gpu.peers.empty() ? "none" : fmt::format("GPU {}", fmt::join(gpu.peers, ", "));
  return fmt::format(
      "\n  GPU {}: {}, compute capability {}, {} multiprocessors\n"
      "    memory       {:.1f} GiB, {}\n"
      "    peer access  {}",
      gpu.ordinal, gpu.name, gpu.compute_capability, gpu.num_multiprocessors,
      gibibytes(gpu.total_bytes), free, peers);
}

}  // namespace

std::string device_summary(const CudaInfo& info) {
  if (!info.built) return "CUDA: not in this build, which runs on the CPU only";
  std::string text =
      fmt::format("CUDA: runtime {}, cuDNN {}, NCCL {}, driver {}", info.runtime_version,
                  info.cudnn_version, info.nccl_version,
                  info.driver_version.empty() ? "not found" : "for CUDA " + info.driver_version);
  if (info.gpus.empty())
    text += fmt::format("\n  no GPU: {}; everything runs on the CPU",
                        info.no_gpu_reason.empty() ? "none is visible" : info.no_gpu_reason);
  for (const GpuInfo& gpu : info.gpus) text += gpu_lines(gpu);
  return text;
}

}  // namespace longship
