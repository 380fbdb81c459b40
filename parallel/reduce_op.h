// What an element-wise reduction does with two values.
#pragma once

#include <type_traits>

// Read by C++ and by CUDA kernels.
#ifdef __CUDACC__
#define LONGSHIP_ON_EVERY_DEVICE __host__ __device__
#else
#define LONGSHIP_ON_EVERY_DEVICE
#endif

namespace longship {

enum class ReduceOp { kSum, kMax, kMin };

// A NaN wins against any number in max and min; integer sums wrap around.
template <class T>
LONGSHIP_ON_EVERY_DEVICE inline T combine(ReduceOp op, T a, T b) {
  if (op == ReduceOp::kSum) {
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    } else {
      return a + b;
    }
  }
  const bool b_wins = op == ReduceOp::kMax ? b > a : b < a;
  return b_wins || b != b ? b : a;
}

}  // namespace longship
