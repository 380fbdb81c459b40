// RMSNorm on a GPU: what the kernels of rms_norm_cuda.cu are given. Contiguous tensors of fp32 or
// bf16; statistics and sums in fp32. One pass: each element is read and written once.
#pragma once

#include "runtime/cuda/handles.h"
#include "runtime/cuda/row_groups.h"
#include "runtime/dtype.h"

namespace longship {

inline constexpr RowKernelTraits kRmsNormForwardRows{.num_tensors = 1, .long_row_vectors = 4};
// With what dx is added to there are three tensors; they and the sums leave no registers for more
// vectors.
inline constexpr RowKernelTraits kRmsNormBackwardRows{.num_tensors = 2, .long_row_vectors = 2};

struct RmsNormForwardCuda {
  DType dtype = DType::kF32;  // of x, weight and y
  int64_t num_rows = 0;
  int64_t num_features = 0;
  float eps = 0;
  float shift = 0;  // added to the weight
  const void* x_RD = nullptr;
  const void* weight_D = nullptr;
  void* y_RD = nullptr;
  float* rstd_R = nullptr;
};
inline RowGroups rms_norm_forward_groups(DType dtype, int64_t num_rows, int64_t num_features) {
  return row_groups(dtype, num_rows, num_features, kRmsNormForwardRows);
}
void rms_norm_forward_cuda(const RmsNormForwardCuda& op, StreamHandle stream);

struct RmsNormBackwardCuda {
  DType dtype = DType::kF32;  // of x, weight, dy and dx
  float shift = 0;            // added to the weight
  int64_t num_rows = 0;
  int64_t num_features = 0;
  const void* x_RD = nullptr;
  const void* weight_D = nullptr;
  const float* rstd_R = nullptr;
  const void* dy_RD = nullptr;
  const void* other_RD = nullptr;  // added to dx, and may be dx; null: nothing
  void* dx_RD = nullptr;           // null: not wanted
  float* dweight_D = nullptr;      // null: not wanted; overwritten
  float* partials_BD = nullptr;    // scratch, with B = rms_norm_num_partials(); null with dweight_D
};
inline RowGroups rms_norm_backward_groups(DType dtype, int64_t num_rows, int64_t num_features) {
  return row_groups(dtype, num_rows, num_features, kRmsNormBackwardRows);
}
// Sums over rows go into B partial sums, then over these, always in the same order: no atomics, and
// the same bits on any GPU.
inline int64_t rms_norm_num_partials(DType dtype, int64_t num_rows, int64_t num_features) {
  return rms_norm_backward_groups(dtype, num_rows, num_features).num_groups;
}
void rms_norm_backward_cuda(const RmsNormBackwardCuda& op, StreamHandle stream);

}  // namespace longship
