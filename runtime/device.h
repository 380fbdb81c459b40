// Device: where memory lies and kernels run.
#pragma once

#include <string>

namespace longship {

enum class DeviceKind { kCpu, kCuda };

// `index` is the CUDA ordinal, 0 on the CPU.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

// "the CPU" or "GPU 1", as in messages.
inline std::string device_name(Device device) {
  return device.kind == DeviceKind::kCpu ? "the CPU" : "GPU " + std::to_string(device.index);
}

}  // namespace longship
