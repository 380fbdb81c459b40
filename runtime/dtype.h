// Element types, the bf16 value type, and run-time dispatch from DType to a C++ type. CUDA sources
// include this too.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>
#include <utility>

namespace longship {

enum class DType : int { kF32, kBF16, kF64, kI32, kI64, kU8 };

constexpr int64_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kU8:
      return 1;
  }
  return 0;
}

constexpr std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "fp32";
    case DType::kBF16:
      return "bf16";
    case DType::kF64:
      return "fp64";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
  }
  return "?";
}

constexpr bool is_floating(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF64;
}

// The type sums are kept in: fp64 for fp64, fp32 for everything else.
constexpr DType accumulator_dtype(DType dtype) {
  return dtype == DType::kF64 ? DType::kF64 : DType::kF32;
}

// bfloat16 with round-to-nearest-even; NaN stays NaN. Loops that store it need `#pragma GCC ivdep`
// to vectorise: g++ 12 gives up on them under `#pragma omp simd`.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    uint32_t word = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    const bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<uint16_t>(is_nan ? ((word >> 16) | 0x40u) : rounded);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};

// The C++ type sums are kept in, matching accumulator_dtype().
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

// Error(kInternal): code was reached with a dtype that it does not know.
[[noreturn]] void throw_unexpected_dtype(DType dtype);

// Calls f(T{}) with the C++ type of a floating dtype: dispatch_floating(d, [&](auto tag) {
// using T = decltype(tag); ... }). Integer dtypes throw.
template <class F>
decltype(auto) dispatch_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return std::forward<F>(f)(float{});
    case DType::kBF16:
      return std::forward<F>(f)(bf16{});
    case DType::kF64:
      return std::forward<F>(f)(double{});
    default:
      throw_unexpected_dtype(dtype);
  }
}

}  // namespace longship
