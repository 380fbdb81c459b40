// How long something took, or has taken so far.
#pragma once

#include <chrono>

namespace longship {

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace longship
