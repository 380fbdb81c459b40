// What a GPU can do at best, by its data sheet: the bounds that times are compared with.
#pragma once

#include <string_view>

#include "runtime/context.h"

namespace longship {

// 0 = not known.
struct DevicePeaks {
  double bf16_flops = 0;  // per second, dense, fp32 accumulation
  double memory_bytes_per_s = 0;
  double link_bytes_per_s = 0;  // to the other GPUs of the host, one direction
};

// `gpu_name` as the driver gives it, such as "NVIDIA H200". All 0 for GPUs that are not listed.
DevicePeaks device_peaks(std::string_view gpu_name);

// Of the GPU that `ctx` runs on; all 0 on the CPU.
DevicePeaks device_peaks(const Context& ctx);

}  // namespace longship
