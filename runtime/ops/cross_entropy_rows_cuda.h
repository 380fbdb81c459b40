// Cross-entropy of rows of logits on a GPU: what the kernels of cross_entropy_rows_cuda.cu are
// given. No atomics: the same bits on any GPU.
#pragma once

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

// Rows begin at multiples of this many logits, so that vectors of 16 bytes stay within a row.
inline constexpr int64_t kLogitRowStep = 8;

// losses[r] = logsumexp(logits[r]) - logits[r][target[r]], and, where gradients are wanted, the row
// is replaced by weight[r] (softmax(logits[r]) - onehot(target[r])), which begins where the row
// began, in `gradient_dtype`. A row of weight 0 gets zeros, and its target is not looked at. A
// target outside [0, V) makes the loss NaN.
struct CrossEntropyRowsCuda {
  int64_t num_rows = 0;
  int64_t vocab_size = 0;
  int64_t row_stride = 0;  // at least vocab_size, a multiple of kLogitRowStep
  float* logits_RV = nullptr;
  const int32_t* targets_R = nullptr;
  const float* weights_R = nullptr;  // null: all 1
  float* losses_R = nullptr;
  bool wants_gradients = false;
  DType gradient_dtype = DType::kF32;  // or bf16
};
void cross_entropy_rows_cuda(const CrossEntropyRowsCuda& op, StreamHandle stream);

}  // namespace longship
