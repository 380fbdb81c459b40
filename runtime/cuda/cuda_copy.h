// Copies as CUDA is asked for them. All are enqueued on a stream.
#pragma once

#include "runtime/copy_axes.h"
#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

// Any direction: the addresses say which.
void enqueue_copy(void* to, const void* from, int64_t bytes, StreamHandle stream);

// Rows of bytes, at a distance of their own on either side.
struct CudaRowCopy {
  void* to = nullptr;
  int64_t to_pitch = 0;  // bytes from row to row
  const void* from = nullptr;
  int64_t from_pitch = 0;
  int64_t row_bytes = 0;
  int64_t num_rows = 1;
};
// By a copy engine, also into the memory of another GPU.
void enqueue_row_copy(const CudaRowCopy& copy, StreamHandle stream);
// By a kernel, within one GPU.
void enqueue_row_copy_kernel(const CudaRowCopy& copy, StreamHandle stream);

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
