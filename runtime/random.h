// Counter-based random numbers (Philox 4x32-10, Salmon et al. 2011): a value is a pure function of
// (seed, stream, index), so it does not depend on ranks, threads or order.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace longship {

using PhiloxBlock = std::array<uint32_t, 4>;

inline PhiloxBlock philox(uint64_t seed, uint64_t stream, uint64_t index) {
  PhiloxBlock c = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                   static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key1, static_cast<uint32_t>(p0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

// A stream number for a name, stable across platforms (FNV-1a).
constexpr uint64_t stream_of(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (char character : name) hash = (hash ^ static_cast<uint8_t>(character)) * 0x100000001b3ull;
  return hash;
}

// Uniform in (0, 1].
inline double uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  const PhiloxBlock block = philox(seed, stream, index);
  const uint64_t bits = (uint64_t{block[0]} << 32 | block[1]) >> 11;
  return (static_cast<double>(bits) + 1.0) * 0x1.0p-53;
}

// Standard normal (Box-Muller on one Philox block).
inline double normal(uint64_t seed, uint64_t stream, uint64_t index) {
  const PhiloxBlock block = philox(seed, stream, index);
  const double u = ((uint64_t{block[0]} << 32 | block[1]) + 1.0) * 0x1.0p-64;
  const double v = (uint64_t{block[2]} << 32 | block[3]) * 0x1.0p-64;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

// Uniform integer in [0, bound), bound > 0.
inline uint64_t uniform_index(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound) {
  const PhiloxBlock block = philox(seed, stream, index);
  const unsigned __int128 wide =
      static_cast<unsigned __int128>(uint64_t{block[0]} << 32 | block[1]) * bound;
  return static_cast<uint64_t>(wide >> 64);
}

}  // namespace longship
