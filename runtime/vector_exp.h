// exp as plain arithmetic, so that loops over it vectorise and an element gets the same bits
// wherever it stands in a loop; std::exp offers neither.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace longship {

// e^x for any x: relative error below 2e-7; 0 below -86.9 (no denormals), infinity above
// 88.7228, NaN for NaN. Range reduction and polynomial of Cephes (Moshier 1989).
inline float vector_exp(float x) {
  // Adding 1.5 * 2^23 leaves round(x / ln 2) in the low bits of the float.
  constexpr float kRounder = 12582912.0f;
  const float shifted = x * 1.44269504088896341f + kRounder;
  const float n = shifted - kRounder;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2 p * 2^(n-1): n reaches 128, whose power is not a float.
  const float half_scale = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) + 126u) << 23);
  const float value = (p + p) * half_scale;
  const float capped = x > 88.7228f ? std::numeric_limits<float>::infinity() : value;
  return x < -86.9f ? 0.0f : capped;
}

// fp64 is for tests and oracles, where accuracy matters more than speed.
inline double vector_exp(double x) {
  return std::exp(x);
}

}  // namespace longship
