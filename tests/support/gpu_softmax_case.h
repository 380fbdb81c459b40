// What tests of softmax attention on GPUs share: batches in bf16, and how near they have to come.
#pragma once

#include <cmath>

#include "tests/support/softmax_case.h"

namespace longship::testing {

// For expect_near(). Probabilities and score gradients are rounded to bf16 inside, and o enters the
// gradients; what crosses GPUs is rounded once more at most. Two runs differ by no more than each
// of them may differ from the definition.
inline constexpr double kGpuForwardBound = 6e-3, kGpuGradientBound = 1.2e-2;

inline constexpr AttentionHeads kGpuHeads = {4, 2, 64, 64};

inline AttentionBatch gpu_batch(const std::vector<int64_t>& lengths,
                                AttentionHeads heads = kGpuHeads, AttentionOptions options = {}) {
  Context host;
  options.scale = 1 / std::sqrt(static_cast<double>(heads.key_size));
  return random_batch(host, cu_seqlens_of(lengths), heads, DType::kBF16, options);
}

}  // namespace longship::testing
