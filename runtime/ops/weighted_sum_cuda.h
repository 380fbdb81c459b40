// A weighted sum of token losses on a GPU. No atomics: the same bits on any GPU.
#pragma once

#include <cstdint>

#include "runtime/cuda/handles.h"

namespace longship {

// *sum = sum_t weights[t] losses[t], added up in fp64, over the tokens whose weight is not 0.
struct WeightedSumCuda {
  int64_t num_tokens = 0;
  const float* losses_T = nullptr;
  const float* weights_T = nullptr;
  float* sum = nullptr;
};
void weighted_sum_cuda(const WeightedSumCuda& op, StreamHandle stream);

}  // namespace longship
