// Elements as kernels see them: loaded and stored 16 bytes at a time, computed with in fp32.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <utility>

#include "runtime/dtype.h"

namespace longship {

__device__ inline float to_float(float value) {
  return value;
}
__device__ inline float to_float(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
template <class T>
__device__ T from_float(float value) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return value;
  } else {
    return __float2bfloat16_rn(value);
  }
}

// 4 fp32 or 8 bf16 elements, whose address is a multiple of 16.
template <class T>
struct Vector16 {
  static constexpr int kSize = 16 / sizeof(T);

  uint4 words = {0, 0, 0, 0};

  __device__ static Vector16 load(const T* from) {
    return {__ldg(reinterpret_cast<const uint4*>(from))};
  }
  // Of elements that this kernel changes.
  __device__ static Vector16 load_mutable(const T* from) {
    return {*reinterpret_cast<const uint4*>(from)};
  }
  __device__ void store(T* to) const { *reinterpret_cast<uint4*>(to) = words; }

  __device__ void unpack(float (&values)[kSize]) const {
    const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kSize == 4) {
        values[i] = __uint_as_float(w[i]);
      } else {
        values[2 * i] = __uint_as_float(w[i] << 16);
        values[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
      }
    }
  }

  __device__ static Vector16 pack(const float (&values)[kSize]) {
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kSize == 4) {
        w[i] = __float_as_uint(values[i]);
      } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
        w[i] = *reinterpret_cast<const uint32_t*>(&pair);
      }
    }
    return {{w[0], w[1], w[2], w[3]}};
  }
};

// kSize elements from `from`, in fp32: 1, or a multiple of what Vector16<T> holds where the address
// is a multiple of 16. Memory that the kernel also writes may be read.
template <class T, int kSize>
__device__ void load_elements(const T* from, float (&values)[kSize]) {
  if constexpr (kSize == 1) {
    values[0] = to_float(*from);
  } else {
    using Vector = Vector16<T>;
    static_assert(kSize % Vector::kSize == 0);
    constexpr int kVectors = kSize / Vector::kSize;
    Vector vectors[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) vectors[i].words = reinterpret_cast<const uint4*>(from)[i];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float part[Vector::kSize];
      vectors[i].unpack(part);
#pragma unroll
      for (int j = 0; j < Vector::kSize; ++j) values[i * Vector::kSize + j] = part[j];
    }
  }
}

template <class T, int kSize>
__device__ void store_elements(const float (&values)[kSize], T* to) {
  if constexpr (kSize == 1) {
    *to = from_float<T>(values[0]);
  } else {
    using Vector = Vector16<T>;
    static_assert(kSize % Vector::kSize == 0);
#pragma unroll
    for (int i = 0; i < kSize / Vector::kSize; ++i) {
      float part[Vector::kSize];
#pragma unroll
      for (int j = 0; j < Vector::kSize; ++j) part[j] = values[i * Vector::kSize + j];
      Vector::pack(part).store(to + i * Vector::kSize);
    }
  }
}

// Half a vector, beside four in fp32, where the address is a multiple of 8.
__device__ inline void load_elements(const __nv_bfloat16* from, float (&values)[4]) {
  const uint2 words = *reinterpret_cast<const uint2*>(from);
  values[0] = __uint_as_float(words.x << 16);
  values[1] = __uint_as_float(words.x & 0xffff0000u);
  values[2] = __uint_as_float(words.y << 16);
  values[3] = __uint_as_float(words.y & 0xffff0000u);
}
__device__ inline void store_elements(const float (&values)[4], __nv_bfloat16* to) {
  const __nv_bfloat162 first = __floats2bfloat162_rn(values[0], values[1]);
  const __nv_bfloat162 second = __floats2bfloat162_rn(values[2], values[3]);
  *reinterpret_cast<uint2*>(to) = {*reinterpret_cast<const uint32_t*>(&first),
                                   *reinterpret_cast<const uint32_t*>(&second)};
}

// store_elements() to global memory for kernels in which the compiler makes four stores of one.
template <class T, int kSize>
__device__ void store_elements_whole(const float (&values)[kSize], T* to) {
  using Vector = Vector16<T>;
  if constexpr (kSize == Vector::kSize) {
    __stwb(reinterpret_cast<uint4*>(to), Vector::pack(values).words);
  } else {
    store_elements(values, to);
  }
}

inline bool is_vector_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// Calls f(T{}) with the CUDA type of fp32 or bf16, the dtypes that GPUs train in; others throw.
template <class F>
void dispatch_cuda_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return std::forward<F>(f)(float{});
    case DType::kBF16:
      return std::forward<F>(f)(__nv_bfloat16{});
    default:
      throw_unexpected_dtype(dtype);
  }
}

}  // namespace longship
