// Row sums of o * do on a GPU: what the kernel of softmax_delta_cuda.cu is given. Contiguous
// tensors of R rows (tokens x heads), each in fp32 or bf16.
#pragma once

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct SoftmaxDeltaCuda {
  int64_t num_rows = 0;
  int64_t row_length = 0;
  DType o_dtype = DType::kF32;
  DType do_dtype = DType::kF32;
  const void* o_RV = nullptr;
  const void* do_RV = nullptr;
  float* delta_R = nullptr;
};
void softmax_delta_cuda(const SoftmaxDeltaCuda& op, StreamHandle stream);

}  // namespace longship
