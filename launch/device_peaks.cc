#include "launch/device_peaks.h"

#include <array>

#include "runtime/cuda/device_info.h"
#include "runtime/gpu.h"

namespace longship {
namespace {

struct Entry {
  std::string_view part_of_name;
  DevicePeaks peaks;
};

// The first entry whose text is part of the name counts.
constexpr std::array<Entry, 5> kEntries = {{
    {"H200 NVL", {.bf16_flops = 835.5e12, .memory_bytes_per_s = 4.8e12, .link_bytes_per_s = 450e9}},
    {"H200", {.bf16_flops = 989.4e12, .memory_bytes_per_s = 4.8e12, .link_bytes_per_s = 450e9}},
    {"H100 PCIe", {.bf16_flops = 756e12, .memory_bytes_per_s = 2e12, .link_bytes_per_s = 0}},
    {"H100 NVL", {.bf16_flops = 835.5e12, .memory_bytes_per_s = 3.9e12, .link_bytes_per_s = 300e9}},
    {"H100", {.bf16_flops = 989.4e12, .memory_bytes_per_s = 3.35e12, .link_bytes_per_s = 450e9}},
}};

}  // namespace

DevicePeaks device_peaks(std::string_view gpu_name) {
  for (const Entry& entry : kEntries)
    if (gpu_name.find(entry.part_of_name) != std::string_view::npos) return entry.peaks;
  return {};
}

DevicePeaks device_peaks(const Context& ctx) {
  return ctx.gpu == nullptr ? DevicePeaks() : device_peaks(gpu_name(ctx.gpu->device.index));
}

}  // namespace longship
