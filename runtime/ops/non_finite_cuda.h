// Where an array on a GPU has NaN or infinity.
#pragma once

#include <cstdint>

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct NonFiniteCuda {
  DType dtype = DType::kF32;  // fp32, bf16 or fp64
  int64_t num_elements = 0;
  const void* data = nullptr;
  // Becomes the smallest index of such an element, if that is below what it holds before. Thus all
  // its bits, set beforehand, remain where there is none.
  uint64_t* first = nullptr;
};
void non_finite_cuda(const NonFiniteCuda& op, StreamHandle stream);

}  // namespace longship
