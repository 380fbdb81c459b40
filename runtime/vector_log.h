// log and log1p as plain arithmetic, for the same reasons as vector_exp().
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace longship {

// 2 artanh(s) for 0 <= |s| <= 1/3, by its series.
inline float twice_artanh(float s) {
  const float z = s * s;
  float p = 1.0f / 13.0f;
  p = p * z + 1.0f / 11.0f;
  p = p * z + 1.0f / 9.0f;
  p = p * z + 1.0f / 7.0f;
  p = p * z + 1.0f / 5.0f;
  p = p * z + 1.0f / 3.0f;
  return 2 * (s + s * (z * p));
}

// log(x) of a normal x > 0: relative error below 3e-7.
inline float vector_log(float x) {
  // x = m 2^e with m between sqrt(1/2) and sqrt(2).
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const int32_t e = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  const float m = std::bit_cast<float>(bits - (static_cast<uint32_t>(e) << 23));
  return static_cast<float>(e) * 0.69314718055994531f + twice_artanh((m - 1) / (m + 1));
}

// log(1 + x) for 0 <= x <= 1: relative error below 3e-7.
inline float vector_log1p(float x) {
  return twice_artanh(x / (2 + x));
}

inline double vector_log(double x) {
  return std::log(x);
}
inline double vector_log1p(double x) {
  return std::log1p(x);
}

}  // namespace longship
