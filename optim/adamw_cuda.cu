// Every element of every tensor is read and written once.
#include "optim/adamw_cuda.h"

#include "optim/tensor_chunks.cuh"
#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/philox.cuh"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 4;  // elements that a thread takes together, which share random numbers

__device__ double gradient_scale(const AdamWCuda& op) {
  if (op.squared_norm == nullptr) return op.gradient_scale;
  const double norm = sqrt(*op.squared_norm);
  return op.max_norm > 0 && norm > op.max_norm ? op.max_norm / norm : 1.0;
}

// The neighbour of `value` in bf16 towards zero, or the one away from it with the probability that
// makes the mean right; `random` is uniform in [0, 2^16).
__device__ __nv_bfloat16 round_stochastically(float value, uint32_t random) {
  return __ushort_as_bfloat16(static_cast<unsigned short>((__float_as_uint(value) + random) >> 16));
}

template <class M, int kSize>
__device__ void update(const AdamWCuda& op, const AdamWEntry& entry, float scale, int64_t i) {
  float gradient[kSize] = {}, p[kSize], m[kSize], v[kSize];
  M* const m_data = static_cast<M*>(entry.m) + i;
  M* const v_data = static_cast<M*>(entry.v) + i;
  if (entry.gradient != nullptr) load_elements(entry.gradient + i, gradient);
  load_elements(entry.master + i, p);
  load_elements(m_data, m);
  load_elements(v_data, v);
  const float keep = entry.decays ? op.keep : 1.0f;
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    const float g = gradient[j] * scale;
    m[j] = op.beta1 * m[j] + op.one_minus_beta1 * g;
    v[j] = op.beta2 * v[j] + op.one_minus_beta2 * (g * g);
    const float denominator = sqrtf(v[j]) * op.inverse_correction2 + op.epsilon;
    p[j] = keep * p[j] - op.step_size * (m[j] / denominator);
  }
  store_elements(p, entry.master + i);
  if (entry.copy != nullptr) store_elements(p, static_cast<__nv_bfloat16*>(entry.copy) + i);
  if constexpr (sizeof(M) == sizeof(__nv_bfloat16)) {
    // Block i / 4 of random numbers is that of four elements: low halves for m, high ones for v.
    const uint4 block = philox(op.random_seed, entry.random_stream, (entry.first_element + i) / 4);
    const uint32_t words[4] = {block.x, block.y, block.z, block.w};
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      const uint32_t random = kSize == 1 ? words[i % 4] : words[j];
      m[j] = to_float(round_stochastically(m[j], random & 0xffffu));
      v[j] = to_float(round_stochastically(v[j], random >> 16));
    }
  }
  store_elements(m, m_data);
  store_elements(v, v_data);
}

template <class M>
__global__ void __launch_bounds__(kThreads) adamw_kernel(const __grid_constant__ AdamWCuda op) {
  if (op.squared_norm != nullptr && !isfinite(*op.squared_norm)) return;
  const float scale = static_cast<float>(gradient_scale(op));
  for_own_chunk(op.entries_N, op.num_entries, kAdamWChunk,
                [&](const AdamWEntry& entry, int64_t begin, int64_t end) {
                  const uintptr_t addresses = reinterpret_cast<uintptr_t>(entry.gradient) |
                                              reinterpret_cast<uintptr_t>(entry.master) |
                                              reinterpret_cast<uintptr_t>(entry.m) |
                                              reinterpret_cast<uintptr_t>(entry.v) |
                                              reinterpret_cast<uintptr_t>(entry.copy);
                  const int64_t whole = addresses % 16 == 0 ? (end - begin) / kGroup : 0;
                  for (int64_t n = threadIdx.x; n < whole; n += kThreads)
                    update<M, kGroup>(op, entry, scale, begin + n * kGroup);
                  for (int64_t i = begin + whole * kGroup + threadIdx.x; i < end; i += kThreads)
                    update<M, 1>(op, entry, scale, i);
                });
}

}  // namespace

void adamw_cuda(const AdamWCuda& op, StreamHandle stream) {
  if (op.num_chunks == 0) return;
  dispatch_cuda_dtype(op.moments_dtype, [&](auto tag) {
    adamw_kernel<decltype(tag)><<<static_cast<unsigned>(op.num_chunks), kThreads, 0, stream>>>(op);
  });
  check_launch("AdamW");
}

}  // namespace longship
