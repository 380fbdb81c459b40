// Which sizes of softmax attention run on a GPU.
#pragma once

#include <cstdint>
#include <string_view>

#include "runtime/dtype.h"

namespace longship {

struct AttentionSizes {
  int64_t num_heads = 0, num_kv_heads = 0;
  int64_t head_size = 0, value_size = 0;
  DType dtype = DType::kBF16;
};

// Throws Error(kConfig) naming `where`, such as "layer 3", and the size, unless cuDNN computes
// attention of these sizes forward and backward on Hopper: bf16, head sizes that are multiples of
// 16 up to 256, values no larger than keys, and whole groups of query heads.
void require_gpu_attention(std::string_view where, const AttentionSizes& sizes);

}  // namespace longship
