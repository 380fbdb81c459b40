// AdamW over all tensors in one launch on a GPU: what the kernel of adamw_cuda.cu is given.
#pragma once

#include <cstdint>

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

inline constexpr int64_t kAdamWChunk = int64_t{1} << 14;

// Contiguous tensors of one parameter.
struct AdamWEntry {
  const float* gradient = nullptr;  // null: zeros
  float* master = nullptr;
  void* m = nullptr;
  void* v = nullptr;
  void* copy = nullptr;  // in bf16, written too; null: there is none
  int64_t num_elements = 0;
  int64_t first_element = 0;   // of these tensors in the parameter; a multiple of 4
  int64_t first_chunk = 0;     // how many chunks the entries before have together
  uint64_t random_stream = 0;  // for rounding moments to bf16
  bool decays = true;
};

struct AdamWCuda {
  const AdamWEntry* entries_N = nullptr;  // on the GPU
  int64_t num_entries = 0;
  int64_t num_chunks = 0;
  DType moments_dtype = DType::kF32;  // or bf16
  // The gradient is scaled by gradient_scale, or, where squared_norm is given (on the GPU), by what
  // brings the norm to max_norm (0: off); then nothing changes if the norm is not finite.
  double gradient_scale = 1;
  const double* squared_norm = nullptr;
  double max_norm = 0;
  uint64_t random_seed = 0;
  float keep = 1;  // 1 - rate * weight_decay
  float beta1 = 0, one_minus_beta1 = 1;
  float beta2 = 0, one_minus_beta2 = 1;
  float step_size = 0;            // rate / (1 - beta1^t)
  float inverse_correction2 = 1;  // 1 / sqrt(1 - beta2^t)
  float epsilon = 0;
};
void adamw_cuda(const AdamWCuda& op, StreamHandle stream);

}  // namespace longship
