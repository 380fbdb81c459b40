// The learned sink logit of softmax attention on a GPU: what the kernels of sink_logit_cuda.cu are
// given. Contiguous tensors; R rows are tokens x heads.
#pragma once

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct AddSinkLogitCuda {
  int64_t num_rows = 0;
  int64_t row_length = 0;
  int64_t num_heads = 0;
  DType o_dtype = DType::kF32;  // or bf16
  const float* sink_H = nullptr;
  void* o_RV = nullptr;    // replaced
  float* lse_R = nullptr;  // replaced
};
void add_sink_logit_cuda(const AddSinkLogitCuda& op, StreamHandle stream);

// Tokens are summed in fp64 in B blocks, then these, always in the same order.
inline constexpr int64_t kSinkLogitBlockTokens = 1024;
inline int64_t sink_logit_num_partials(int64_t num_tokens) {
  return (num_tokens + kSinkLogitBlockTokens - 1) / kSinkLogitBlockTokens;
}

struct SinkLogitGradientCuda {
  int64_t num_tokens = 0;
  int64_t num_heads = 0;
  const float* sink_H = nullptr;
  const float* lse_TH = nullptr;
  const float* delta_TH = nullptr;
  double* partials_BH = nullptr;  // scratch, with B = sink_logit_num_partials()
  float* gradient_H = nullptr;
};
void sink_logit_gradient_cuda(const SinkLogitGradientCuda& op, StreamHandle stream);

}  // namespace longship
