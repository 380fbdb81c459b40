// A product with a factor that only the GPU knows. One pass over the data.
#pragma once

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

// data[i] *= *factor, both on the GPU; computed in fp32.
struct ScaleInPlaceCuda {
  DType dtype = DType::kF32;  // or bf16; of data
  int64_t num_elements = 0;
  const float* factor = nullptr;
  void* data = nullptr;
};
void scale_in_place_cuda(const ScaleInPlaceCuda& op, StreamHandle stream);

}  // namespace longship
