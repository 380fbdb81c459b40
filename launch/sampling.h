// Choosing the next token from logits.
#pragma once

#include <cstdint>

#include "runtime/tensor.h"

namespace longship {

struct SamplingOptions {
  double temperature = 0;  // 0: the likeliest token, the lowest id among equals
  int64_t top_k = 0;       // sample among the k likeliest; 0: all
  double top_p = 1.0;      // ... and among the fewest that together have this probability
  uint64_t seed = 0;
};

// logits_V: fp32. `index` numbers the tokens of one generation; the choice is a pure function of
// (logits, options, index). Throws Error(kConfig) for options out of range, Error(kNonFinite) for
// logits that are NaN or infinite.
int32_t sample_token(const Tensor& logits_V, const SamplingOptions& options, int64_t index);

}  // namespace longship
