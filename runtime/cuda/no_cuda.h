// What the stand-ins for CUDA code (`*_absent.cc`) do in a build without it.
#pragma once

#include <string_view>

#include "runtime/error.h"

namespace longship {

// Throws Error(kConfig) naming the operation.
[[noreturn]] inline void refuse_without_cuda(std::string_view op) {
  throw Error(ErrorCode::kConfig,
              {.what = fmt::format("{} on a GPU: this build of Longship has no CUDA code", op),
               .next = "build it on a machine with the CUDA toolkit (nvcc), or run on the CPU"});
}

}  // namespace longship
