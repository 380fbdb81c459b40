// Which code of an op runs: that of the CPU or that of the GPU.
#pragma once

#include <initializer_list>
#include <string_view>
#include <utility>

#include "runtime/tensor.h"

namespace longship {

// Throws Error(kInternal) naming the op unless all tensors lie on the device of the first.
inline void require_one_device(std::string_view op, std::initializer_list<const Tensor*> tensors) {
  const Device first = (*tensors.begin())->device();
  for (const Tensor* tensor : tensors)
    LONGSHIP_CHECK(tensor->device() == first, "{} of tensors on {} and on {}", op,
                   device_name(first), device_name(tensor->device()));
}

// Calls cpu() or cuda(), for the device that `output` lies on; neither if it is in memory for
// planning, where an op only allocates.
template <class Cpu, class Cuda>
void dispatch_device(const Tensor& output, Cpu&& cpu, Cuda&& cuda) {
  if (!output.has_elements()) return;
  if (output.device().kind == DeviceKind::kCpu) {
    std::forward<Cpu>(cpu)();
  } else {
    std::forward<Cuda>(cuda)();
  }
}

}  // namespace longship
