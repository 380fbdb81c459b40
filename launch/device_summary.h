// What `longship inspect --devices` prints.
#pragma once

#include <string>

#include "runtime/cuda/device_info.h"

namespace longship {

// Lines without a last newline: CUDA's versions, then each GPU with its memory and the GPUs that it
// can reach directly; or why there is none.
std::string device_summary(const CudaInfo& info);

}  // namespace longship
