// sum += part on a GPU: what the kernel of accumulate_cuda.cu is given. R rows of X elements.
#pragma once

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct AccumulateCuda {
  int64_t num_rows = 0;
  int64_t row_length = 0;
  int64_t sum_stride = 0;  // elements from a row of the sum to the next; those of `part` are packed
  DType part_dtype = DType::kF32;  // or bf16
  float* sum_RX = nullptr;
  const void* part_RX = nullptr;
};
void accumulate_cuda(const AccumulateCuda& op, StreamHandle stream);

}  // namespace longship
