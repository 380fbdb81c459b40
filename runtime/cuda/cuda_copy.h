// Copies as CUDA is asked for them. All are enqueued on a stream.
#pragma once

#include "runtime/copy_axes.h"
#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

// Any direction: the addresses say which.
void enqueue_copy(void* to, const void* from, int64_t bytes, StreamHandle stream);

// to[i] = from[i] within one GPU. Equal dtypes, or two floating ones: rounding is to nearest even,
// from fp64 to bf16 by way of fp32.
struct CudaStridedCopy {
  void* to = nullptr;
  const void* from = nullptr;
  DType to_dtype = DType::kF32;
  DType from_dtype = DType::kF32;
  int64_t num_elements = 0;
  int num_axes = 0;
  CopyAxis axes[8] = {};
};
void enqueue_strided_copy(const CudaStridedCopy& copy, StreamHandle stream);

}  // namespace longship
