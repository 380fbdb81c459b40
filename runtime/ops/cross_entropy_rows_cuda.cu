// One block a row: it reads the row once for the largest logit and the sum of exponentials, and
// once more, mostly from the L2 cache, to replace it by its gradient.
#include "runtime/ops/cross_entropy_rows_cuda.h"

#include <algorithm>
#include <cmath>

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/vector16.cuh"

namespace longship {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kLogits = 8;   // neighbours that a thread reads: 32 bytes, 16 as bf16
constexpr int kVectors = 2;  // of kLogits in flight
constexpr int64_t kTile = int64_t{kThreads} * kVectors * kLogits;
static_assert(kLogits == kLogitRowStep);

__device__ float exponential(float difference) {
  constexpr float kLog2E = 1.44269504f;
  return exp2f(difference * kLog2E);
}

struct Softmax {
  float max = -INFINITY;
  float sum = 0;  // of exp(logit - max)

  // Adds what `other` has seen; gives the same bits whichever of two comes first.
  __device__ void merge(const Softmax& other) {
    const float most = fmaxf(max, other.max);
    const float mine = max == most ? sum : sum * exponential(max - most);
    const float others = other.max == most ? other.sum : other.sum * exponential(other.max - most);
    max = most;
    sum = mine + others;
  }
};

// The logits v, v + 1, ... of a row; -infinity beyond its end. Not through the read-only cache, as
// the row is written later.
__device__ void load_logits(const float* row, int64_t v, int64_t V, float (&logits)[kLogits]) {
#pragma unroll
  for (int i = 0; i < kLogits; ++i) logits[i] = -INFINITY;
  if (v >= V) return;
#pragma unroll
  for (int i = 0; i < kLogits; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(row + v + i);
    if (v + i < V) logits[i] = four.x;
    if (v + i + 1 < V) logits[i + 1] = four.y;
    if (v + i + 2 < V) logits[i + 2] = four.z;
    if (v + i + 3 < V) logits[i + 3] = four.w;
  }
}

template <class G>
__device__ void store_gradients(G* row, int64_t v, const float (&values)[kLogits]) {
  constexpr int kSize = Vector16<G>::kSize;
#pragma unroll
  for (int i = 0; i < kLogits; i += kSize) {
    float part[kSize];
#pragma unroll
    for (int j = 0; j < kSize; ++j) part[j] = values[i + j];
    Vector16<G>::pack(part).store(row + v + i);
  }
}

// Of the whole row, to every thread.
__device__ Softmax row_softmax(const float* row, int64_t V) {
  Softmax mine;
  for (int64_t tile = 0; tile < V; tile += kTile) {
    float logits[kVectors][kLogits];
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      load_logits(row, tile + (int64_t{k} * kThreads + threadIdx.x) * kLogits, V, logits[k]);
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      Softmax part;
#pragma unroll
      for (int i = 0; i < kLogits; ++i) part.max = fmaxf(part.max, logits[k][i]);
      if (part.max == -INFINITY) continue;
#pragma unroll
      for (int i = 0; i < kLogits; ++i) part.sum += exponential(logits[k][i] - part.max);
      mine.merge(part);
    }
  }
  for (int step = 16; step > 0; step /= 2)
    mine.merge({__shfl_xor_sync(0xffffffffu, mine.max, step),
                __shfl_xor_sync(0xffffffffu, mine.sum, step)});
  __shared__ float maxima[kWarps], sums[kWarps];
  if (threadIdx.x % 32 == 0) {
    maxima[threadIdx.x / 32] = mine.max;
    sums[threadIdx.x / 32] = mine.sum;
  }
  __syncthreads();
  Softmax all;
  for (int warp = 0; warp < kWarps; ++warp) all.merge({maxima[warp], sums[warp]});
  return all;
}

template <class G>
__global__ void __launch_bounds__(kThreads, 2)
    cross_entropy_rows_kernel(const __grid_constant__ CrossEntropyRowsCuda op) {
  const int64_t r = blockIdx.x, V = op.vocab_size;
  float* const logits = op.logits_RV + r * op.row_stride;
  G* const gradients = reinterpret_cast<G*>(logits);
  const float weight = op.weights_R == nullptr ? 1.0f : op.weights_R[r];
  if (weight == 0) {
    if (threadIdx.x == 0) op.losses_R[r] = 0;
    if (!op.wants_gradients) return;
    const float zeros[kLogits] = {};
    for (int64_t v = int64_t{threadIdx.x} * kLogits; v < V; v += int64_t{kThreads} * kLogits)
      store_gradients(gradients, v, zeros);
    return;
  }
  const int64_t target = op.targets_R[r];
  const bool is_target_valid = target >= 0 && target < V;
  const float target_logit = is_target_valid ? logits[target] : NAN;
  const Softmax softmax = row_softmax(logits, V);
  if (threadIdx.x == 0)
    op.losses_R[r] =
        static_cast<float>(double{softmax.max} + log(double{softmax.sum}) - double{target_logit});
  if (!op.wants_gradients) return;
  const float scale = weight / softmax.sum;
  for (int64_t tile = 0; tile < V; tile += kTile) {
    float values[kVectors][kLogits];
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      load_logits(logits, tile + (int64_t{k} * kThreads + threadIdx.x) * kLogits, V, values[k]);
    // Gradients are no larger than logits, so those of a tile lie on logits of this tile or of
    // earlier ones, and these have been read by now.
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int64_t v = tile + (int64_t{k} * kThreads + threadIdx.x) * kLogits;
      if (v >= V) continue;
#pragma unroll
      for (int i = 0; i < kLogits; ++i) {
        values[k][i] = exponential(values[k][i] - softmax.max) * scale;
        if (v + i == target) values[k][i] -= weight;
      }
      store_gradients(gradients, v, values[k]);
    }
  }
}

constexpr int kSumThreads = 1024;

__global__ void __launch_bounds__(kSumThreads)
    weighted_sum_kernel(const __grid_constant__ WeightedSumCuda op) {
  __shared__ double sums[kSumThreads];
  double sum = 0;
#pragma unroll 8
  for (int64_t t = threadIdx.x; t < op.num_tokens; t += kSumThreads) {
    const float weight = op.weights_T[t];
    if (weight != 0) sum += double{weight} * double{op.losses_T[t]};
  }
  sums[threadIdx.x] = sum;
  for (unsigned half = kSumThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *op.sum = static_cast<float>(sums[0]);
}

constexpr int kScaleThreads = 256;

// Vectors first, then the elements that are left; without vectors if the data is not aligned.
template <class T>
__global__ void __launch_bounds__(kScaleThreads)
    scale_in_place_kernel(const __grid_constant__ ScaleInPlaceCuda op, int64_t num_vectors) {
  constexpr int kSize = Vector16<T>::kSize;
  const float factor = *op.factor;
  T* const data = static_cast<T*>(op.data);
  const int64_t first = int64_t{blockIdx.x} * kScaleThreads + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * kScaleThreads;
#pragma unroll 2
  for (int64_t i = first; i < num_vectors; i += step) {
    const Vector16<T> vector{*reinterpret_cast<const uint4*>(data + i * kSize)};
    float values[kSize];
    vector.unpack(values);
#pragma unroll
    for (int j = 0; j < kSize; ++j) values[j] *= factor;
    Vector16<T>::pack(values).store(data + i * kSize);
  }
  for (int64_t i = num_vectors * kSize + first; i < op.num_elements; i += step)
    data[i] = from_float<T>(to_float(data[i]) * factor);
}

}  // namespace

void cross_entropy_rows_cuda(const CrossEntropyRowsCuda& op, StreamHandle stream) {
  if (op.num_rows == 0) return;
  dispatch_cuda_dtype(op.gradient_dtype, [&](auto tag) {
    cross_entropy_rows_kernel<decltype(tag)>
        <<<static_cast<unsigned>(op.num_rows), kThreads, 0, stream>>>(op);
  });
  check_launch("cross_entropy rows");
}

void weighted_sum_cuda(const WeightedSumCuda& op, StreamHandle stream) {
  weighted_sum_kernel<<<1, kSumThreads, 0, stream>>>(op);
  check_launch("cross_entropy sum");
}

void scale_in_place_cuda(const ScaleInPlaceCuda& op, StreamHandle stream) {
  if (op.num_elements == 0) return;
  constexpr int64_t kMostBlocks = 132 * 8;
  dispatch_cuda_dtype(op.dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kSize = Vector16<T>::kSize;
    const int64_t num_vectors = is_vector_aligned(op.data) ? op.num_elements / kSize : 0;
    const int64_t items = std::max<int64_t>(num_vectors, op.num_elements - num_vectors * kSize);
    const int64_t blocks =
        std::min<int64_t>((items + kScaleThreads - 1) / kScaleThreads, kMostBlocks);
    scale_in_place_kernel<T>
        <<<static_cast<unsigned>(blocks), kScaleThreads, 0, stream>>>(op, num_vectors);
  });
  check_launch("scale in place");
}

}  // namespace longship
