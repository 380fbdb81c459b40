// The logistic function in kernels.
#pragma once

namespace longship {

// 1 / (1 + e^-x), to a few units in the last place at both ends: e^-|x| never overflows.
__device__ inline float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return __fdividef(x >= 0 ? 1.0f : e, 1.0f + e);
}

}  // namespace longship
