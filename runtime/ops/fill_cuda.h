// One value for every element on a GPU: what the kernel of fill_cuda.cu is given.
#pragma once

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct FillCuda {
  DType dtype = DType::kF32;  // or bf16
  int64_t num_elements = 0;
  float value = 0;
  void* elements = nullptr;
};
void fill_cuda(const FillCuda& op, StreamHandle stream);

}  // namespace longship
