// A random order that anyone can compute again from its seed.
#pragma once

#include <cstdint>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/random.h"

namespace longship {

// 0 .. count - 1 in an order that is a pure function of (seed, name, epoch): Fisher-Yates with
// Philox numbers.
inline std::vector<int64_t> shuffled(int64_t count, uint64_t seed, std::string_view name,
                                     int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  const uint64_t stream = stream_of(name) ^ (static_cast<uint64_t>(epoch) * 0x9E3779B97F4A7C15ull);
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[uniform_index(seed, stream, i, i)]);
  return order;
}

}  // namespace longship
