// A row is the work of a cluster of blocks: the registers of their threads hold it between its
// softmax and its gradient, so that it crosses memory once each way. While a row is written, the
// next one of the cluster comes in. What registers cannot hold of the longest rows is read again.
#include "runtime/ops/cross_entropy_rows_cuda.h"

#include <algorithm>
#include <cmath>

#include "runtime/cuda/cluster.cuh"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kLogits = 4;  // neighbours that a thread reads at a time
constexpr int kHeld = 8;    // times kLogits that it holds
constexpr int kTile = kThreads * kLogits;
constexpr int kClusterRows = 8;  // so that few clusters start while others work
static_assert(kLogitRowStep % kLogits == 0);

// Of what is at most 0: below 2^-126 it is 0.
__device__ float exponential(float difference) {
  constexpr float kLog2E = 1.44269504f;
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(difference * kLog2E));
  return power;
}

struct Softmax {
  float max = -INFINITY;
  float sum = 0;  // of exp(logit - max)

  __device__ void rescale(float most) {
    if (max != most) sum *= exponential(max - most);
    max = most;
  }

  // Of what the lanes of a warp have seen; all of them get it, and always with the same bits.
  __device__ Softmax over_warp() const {
    constexpr unsigned kAll = 0xffffffffu;
    Softmax all = *this;
    float most = max;
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(kAll, most, step));
    all.rescale(most);
    for (int step = 16; step > 0; step /= 2) all.sum += __shfl_xor_sync(kAll, all.sum, step);
    return all;
  }
};

struct Logits {
  float values[kLogits];

  __device__ void load(const float* from) {
    const float4 four = __ldcs(reinterpret_cast<const float4*>(from));
    values[0] = four.x;
    values[1] = four.y;
    values[2] = four.z;
    values[3] = four.w;
  }
  // Makes those beyond the first `count` -infinity.
  __device__ void keep(int count) {
#pragma unroll
    for (int i = 0; i < kLogits; ++i)
      if (i >= count) values[i] = -INFINITY;
  }
  __device__ float max() const {
    return fmaxf(fmaxf(values[0], values[1]), fmaxf(values[2], values[3]));
  }
  // Replaces each by exp(logit - most) and gives their sum.
  __device__ float exponentiate(float most) {
    if (most == -INFINITY) most = 0;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) values[i] = exponential(values[i] - most);
    return (values[0] + values[1]) + (values[2] + values[3]);
  }
  // Of exponentials: scale * values - weight onehot(target).
  template <class G>
  __device__ void store_gradients(G* to, float scale, unsigned target, float weight) const {
    float gradients[kLogits];
#pragma unroll
    for (int i = 0; i < kLogits; ++i) gradients[i] = values[i] * scale;
    if (target < kLogits) {
#pragma unroll
      for (unsigned i = 0; i < kLogits; ++i)
        if (i == target) gradients[i] -= weight;
    }
    store_elements(gradients, to);
  }
};

// What `mine` of all threads of the cluster is together. `parity` alternates from call to call, so
// that one barrier of the cluster is enough: a block may still read what the last call left.
__device__ Softmax cluster_softmax(const cg::cluster_group& cluster, const Softmax& mine,
                                   int parity) {
  __shared__ float2 of_warps[kWarps];
  __shared__ float2 of_blocks[2][kMostClusterBlocks];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned num_blocks = cluster.num_blocks();
  Softmax part = mine.over_warp();
  if (lane == 0) of_warps[warp] = {part.max, part.sum};
  __syncthreads();
  if (warp == 0) {
    part = lane < kWarps ? Softmax{of_warps[lane].x, of_warps[lane].y} : Softmax();
    part = part.over_warp();
    if (lane < num_blocks)
      *cluster.map_shared_rank(&of_blocks[parity][cluster.block_rank()], lane) = {part.max,
                                                                                  part.sum};
  }
  cluster.sync();
  part = Softmax();
  if (lane < num_blocks) part = {of_blocks[parity][lane].x, of_blocks[parity][lane].y};
  return part.over_warp();
}

// What a row is besides its logits; beyond the last row as one of weight 0.
struct RowLoss {
  float weight = 0;
  int target = -1;

  __device__ static RowLoss load(const CrossEntropyRowsCuda& op, int64_t row) {
    if (row >= op.num_rows) return {};
    return {op.weights_R == nullptr ? 1.0f : op.weights_R[row], op.targets_R[row]};
  }
};

// A block holds `num_held` neighbouring tiles of a row, up to kHeld. Tiles beyond those of the
// whole cluster, if kReadsAgain, are read again for their gradients.
template <class G, bool kReadsAgain>
__global__ void __launch_bounds__(kThreads, 2)
    cross_entropy_rows_kernel(const __grid_constant__ CrossEntropyRowsCuda op, int num_held) {
  const cg::cluster_group cluster = cg::this_cluster();
  const int num_blocks = static_cast<int>(cluster.num_blocks());
  const int rank = static_cast<int>(cluster.block_rank());
  const int lane = static_cast<int>(threadIdx.x) * kLogits;  // of a tile
  const int V = static_cast<int>(op.vocab_size);
  const int first = rank * num_held * kTile + lane;       // of this thread's logits
  const int held_end = min(num_held * kTile, V - first);  // its next ones are kTile further
  const int again = (num_blocks * num_held + rank) * kTile + lane;  // of those read again
  const int again_step = num_blocks * kTile;
  Logits held[kHeld];
  auto load = [&](int k, int64_t row) {
    if (k * kTile < held_end) held[k].load(op.logits_RV + row * op.row_stride + first + k * kTile);
  };

  int64_t r = blockIdx.x / num_blocks;
  RowLoss current = RowLoss::load(op, r);
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    held[k].keep(0);
    if (current.weight != 0) load(k, r);
  }
  cluster.sync();  // its blocks run: their shared memory may be written
  int parity = 0;
  while (r < op.num_rows) {
    float* const row = op.logits_RV + r * op.row_stride;
    G* const gradients = reinterpret_cast<G*>(row);
    const int64_t next_r = r + gridDim.x / num_blocks;
    const RowLoss next = RowLoss::load(op, next_r);
    float loss = 0;
    if (current.weight == 0) {
      Logits zeros = {};
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        if (k * kTile < held_end && op.wants_gradients)
          zeros.store_gradients(gradients + first + k * kTile, 0, kLogits, 0);
        if (next.weight != 0) load(k, next_r);
      }
      if (kReadsAgain && op.wants_gradients)
        for (int v = again; v < V; v += again_step)
          zeros.store_gradients(gradients + v, 0, kLogits, 0);
    } else {
      float target_logit = NAN;
      if (first == 0 && current.target >= 0 && current.target < V)
        target_logit = row[current.target];
      if (V % kLogits != 0) {
#pragma unroll
        for (int k = 0; k < kHeld; ++k)
          if (k * kTile < held_end) held[k].keep(V - first - k * kTile);
      }
      Softmax mine;
#pragma unroll
      for (int k = 0; k < kHeld; ++k)
        if (k * kTile < held_end) mine.max = fmaxf(mine.max, held[k].max());
      const float held_max = mine.max;
#pragma unroll
      for (int k = 0; k < kHeld; ++k)
        if (k * kTile < held_end) mine.sum += held[k].exponentiate(held_max);
      Logits logits;
      if constexpr (kReadsAgain) {
#pragma unroll 1
        for (int v = again; v < V; v += again_step) {
          logits.load(row + v);
          logits.keep(V - v);
          mine.rescale(fmaxf(mine.max, logits.max()));
          mine.sum += logits.exponentiate(mine.max);
        }
      }
      const Softmax softmax = cluster_softmax(cluster, mine, parity);
      parity ^= 1;
      loss = static_cast<float>(double{softmax.max} + double{logf(softmax.sum)} -
                                double{target_logit});
      // All of the cluster have read what they hold: from here on the row is overwritten.
      const float scale = __fdividef(current.weight, softmax.sum);
      const float held_scale = scale * exponential(held_max - softmax.max);
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        if (k * kTile < held_end && op.wants_gradients)
          held[k].store_gradients(gradients + first + k * kTile, held_scale,
                                  static_cast<unsigned>(current.target - first - k * kTile),
                                  current.weight);
        if (next.weight != 0) load(k, next_r);
      }
      if (kReadsAgain && op.wants_gradients) {
#pragma unroll 1
        for (int tiles = again - lane; tiles - rank * kTile < V; tiles += again_step) {
          // Gradients are no larger than logits, so those of these tiles lie on logits of these or
          // of earlier ones, which all have read by now.
          const int v = tiles + lane;
          if (v < V) logits.load(row + v);
          cluster.sync();
          if (v >= V) continue;
          logits.keep(V - v);
          logits.exponentiate(softmax.max);
          logits.store_gradients(gradients + v, scale, static_cast<unsigned>(current.target - v),
                                 current.weight);
        }
      }
    }
    if (first == 0) op.losses_R[r] = loss;
    r = next_r;
    current = next;
  }
}

template <class G>
void cross_entropy_rows(const CrossEntropyRowsCuda& op, StreamHandle stream) {
  constexpr int64_t kResidentBlocks = 132 * 2;
  const int64_t num_tiles = (op.vocab_size + kTile - 1) / kTile;
  int64_t blocks = 1;
  while (blocks < kMostClusterBlocks && blocks * kHeld < num_tiles) blocks *= 2;
  const auto kernel = blocks * kHeld < num_tiles ? cross_entropy_rows_kernel<G, true>
                                                 : cross_entropy_rows_kernel<G, false>;
  const auto num_held =
      static_cast<int>(std::min<int64_t>((num_tiles + blocks - 1) / blocks, kHeld));
  const int64_t clusters = std::max((op.num_rows + kClusterRows - 1) / kClusterRows,
                                    std::min(op.num_rows, kResidentBlocks / blocks));
  launch_clusters(kernel, clusters, blocks, kThreads, stream, "launch cross_entropy rows", op,
                  num_held);
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
  dispatch_cuda_dtype(op.gradient_dtype,
                      [&](auto tag) { cross_entropy_rows<decltype(tag)>(op, stream); });
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
