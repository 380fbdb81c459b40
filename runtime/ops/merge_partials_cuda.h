// Merging of partial attention on a GPU: what the kernel of merge_partials_cuda.cu is given.
// Contiguous tensors of R rows (tokens x heads); o, part and out in fp32 or bf16 each.
#pragma once

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct MergePartialsCuda {
  int64_t num_rows = 0;
  int64_t row_length = 0;
  DType out_dtype = DType::kF32;
  DType o_dtype = DType::kF32;
  DType part_dtype = DType::kF32;
  void* out_RV = nullptr;  // may be o_RV
  const void* o_RV = nullptr;
  const void* part_RV = nullptr;
  float* lse_R = nullptr;  // replaced
  const float* part_lse_R = nullptr;
};
void merge_partials_cuda(const MergePartialsCuda& op, StreamHandle stream);

}  // namespace longship
