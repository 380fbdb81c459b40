// Rotary position embedding on a GPU: what the kernels of rope_cuda.cu are given. Contiguous
// tensors.
#pragma once

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct RopeAnglesCuda {
  int64_t num_tokens = 0;
  int64_t num_pairs = 0;
  const int64_t* positions_T = nullptr;
  // Turns per position of pair i, as the unevaluated sum frequency_R2[2 i] + frequency_R2[2 i + 1].
  const double* frequency_R2 = nullptr;
  float* cos_TR = nullptr;
  float* sin_TR = nullptr;
};
void rope_angles_cuda(const RopeAnglesCuda& op, StreamHandle stream);

struct RopeCuda {
  DType dtype = DType::kF32;  // of x and y
  int64_t num_tokens = 0;
  int64_t num_heads = 0;
  int64_t head_size = 0;
  int64_t first = 0;      // feature that is turned
  int64_t num_pairs = 0;  // features first + i and first + num_pairs + i turn by angle i
  float direction = 1;    // -1: by the negative angle
  const void* x_THD = nullptr;
  void* y_THD = nullptr;  // another tensor than x
  const float* cos_TR = nullptr;
  const float* sin_TR = nullptr;
};
void rope_cuda(const RopeCuda& op, StreamHandle stream);

}  // namespace longship
