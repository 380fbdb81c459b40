// A tensor and the name it has in files.
#pragma once

#include <string>

#include "runtime/tensor.h"

namespace longship {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

}  // namespace longship
