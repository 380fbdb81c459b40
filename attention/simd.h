// The widest vector of floats or doubles of the machine that the code is compiled for. Arithmetic
// is that of GCC's vector extension.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace longship {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kNumVectorRegisters = 32;
#else
inline constexpr int kNumVectorRegisters = 16;
#endif

template <class A>
struct Simd {
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));
  typedef A Vector __attribute__((vector_size(kVectorBytes), may_alias));

  // `data` is aligned to kVectorBytes.
  static Vector load(const A* data) { return *reinterpret_cast<const Vector*>(data); }
  static void store(A* data, Vector x) { *reinterpret_cast<Vector*>(data) = x; }
  static Vector load_unaligned(const A* data) {
    Vector x;
    std::memcpy(&x, data, sizeof(x));
    return x;
  }
  static void store_unaligned(A* data, Vector x) { std::memcpy(data, &x, sizeof(x)); }
  static Vector broadcast(A x) { return x - Vector{}; }
  static Vector max(Vector a, Vector b) { return a > b ? a : b; }
};

namespace simd_detail {

// Elements kFirst, kFirst + 1, ... of a and b in turn.
template <class A, size_t kFirst, size_t... I>
typename Simd<A>::Vector interleave(typename Simd<A>::Vector a, typename Simd<A>::Vector b,
                                    std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (I % 2 * sizeof...(I) + kFirst + I / 2)...);
}

}  // namespace simd_detail

// Transposes a square of kLanes vectors. Each round turns the address (row, lane) left by one bit;
// log2(kLanes) rounds swap row and lane.
template <class A>
void transpose(typename Simd<A>::Vector (&square)[Simd<A>::kLanes]) {
  constexpr size_t kLanes = Simd<A>::kLanes;
  using Index = std::make_index_sequence<kLanes>;
#pragma GCC unroll 4
  for (size_t round = 1; round < kLanes; round *= 2) {
    typename Simd<A>::Vector turned[kLanes];
#pragma GCC unroll 16
    for (size_t i = 0; i < kLanes / 2; ++i) {
      turned[2 * i] = simd_detail::interleave<A, 0>(square[i], square[i + kLanes / 2], Index{});
      turned[2 * i + 1] =
          simd_detail::interleave<A, kLanes / 2>(square[i], square[i + kLanes / 2], Index{});
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < kLanes; ++i) square[i] = turned[i];
  }
}

}  // namespace longship
