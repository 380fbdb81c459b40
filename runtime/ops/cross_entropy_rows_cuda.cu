// A row is the work of a cluster of blocks: the registers of their threads hold it between its
// softmax and its gradient, so that it crosses memory once each way. While a row is written, the
// next one of the cluster comes in. What registers cannot hold of the longest rows is read again.
#include "runtime/ops/cross_entropy_rows_cuda.h"

#include <algorithm>
#include <cmath>

#include "runtime/cuda/cluster_softmax.cuh"
#include "runtime/cuda/launch.cuh"
#include "runtime/cuda/vector16.cuh"

namespace longship {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 512;
constexpr int kLogits = 4;  // neighbours that a thread reads at a time
constexpr int kHeld = 8;    // times kLogits that it holds
constexpr int kTile = kThreads * kLogits;
constexpr int kClusterRows = 8;  // so that few clusters start while others work
static_assert(kLogitRowStep % kLogits == 0);

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

// What a row is besides its logits; beyond the last row as one of weight 0.
struct Row {
  int64_t index = 0;
  float weight = 0;
  int target = -1;

  __device__ static Row load(const CrossEntropyRowsCuda& op, int64_t index) {
    if (index >= op.num_rows) return {.index = index};
    return {index, op.weights_R == nullptr ? 1.0f : op.weights_R[index], op.targets_R[index]};
  }
};

// A thread's work on the rows of its cluster. A block holds `num_held` neighbouring tiles of a row,
// up to kHeld. Tiles beyond those of the whole cluster, if kReadsAgain, are read again for their
// gradients, which are of type G.
template <class G, bool kReadsAgain>
class RowWork {
 public:
  __device__ RowWork(const CrossEntropyRowsCuda& op, const cg::cluster_group& cluster, int num_held)
      : op_(op),
        cluster_(cluster),
        vocab_size_(static_cast<int>(op.vocab_size)),
        rank_(static_cast<int>(cluster.block_rank())),
        num_blocks_(static_cast<int>(cluster.num_blocks())),
        lane_(static_cast<int>(threadIdx.x) * kLogits),
        first_(rank_ * num_held * kTile + lane_),
        held_end_(min(num_held * kTile, vocab_size_ - first_)),
        again_((num_blocks_ * num_held + rank_) * kTile + lane_) {}

  __device__ void load_held(const Row& row) {
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      held_[k].keep(0);
      load_tile(k, row);
    }
  }

  // Gives the loss of `row` to its first thread. Its gradients replace the row, while what is held
  // of `next` comes in. All threads of the cluster call, and `parity` alternates.
  __device__ float loss(const Row& row, const Row& next, int parity) {
    float* const logits = op_.logits_RV + row.index * op_.row_stride;
    float target_logit = NAN;
    if (is_first() && row.target >= 0 && row.target < vocab_size_)
      target_logit = logits[row.target];
    SoftmaxSum mine = exponentiate_held();
    const float held_max = mine.max;
    if constexpr (kReadsAgain) add_others(logits, mine);
    const SoftmaxSum softmax = cluster_softmax<kThreads / 32>(cluster_, mine, parity);
    const auto loss =
        static_cast<float>(double{softmax.max} + double{logf(softmax.sum)} - double{target_logit});
    // All of the cluster have read what they hold: from here on the row is overwritten.
    const float scale = __fdividef(row.weight, softmax.sum);
    store_held_gradients(row, scale * exponential(held_max - softmax.max), next);
    if (kReadsAgain && op_.wants_gradients) store_other_gradients(row, softmax.max, scale);
    return loss;
  }

  // The gradients of a row of weight 0.
  __device__ void store_zeros(const Row& row, const Row& next) {
    const Logits zeros = {};
    G* const gradients = gradients_of(row);
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      if (holds(k) && op_.wants_gradients)
        zeros.store_gradients(gradients + first_ + k * kTile, 0, kLogits, 0);
      load_tile(k, next);
    }
    if (kReadsAgain && op_.wants_gradients)
      for (int v = again_; v < vocab_size_; v += again_step())
        zeros.store_gradients(gradients + v, 0, kLogits, 0);
  }

  __device__ bool is_first() const {
    return first_ == 0;
  }

 private:
  __device__ bool holds(int k) const {
    return k * kTile < held_end_;
  }
  __device__ int again_step() const {
    return num_blocks_ * kTile;
  }
  __device__ G* gradients_of(const Row& row) const {
    return reinterpret_cast<G*>(op_.logits_RV + row.index * op_.row_stride);
  }

  __device__ void load_tile(int k, const Row& row) {
    if (row.weight != 0 && holds(k))
      held_[k].load(op_.logits_RV + row.index * op_.row_stride + first_ + k * kTile);
  }

  // Their softmax; each becomes exp(logit - its max).
  __device__ SoftmaxSum exponentiate_held() {
    if (vocab_size_ % kLogits != 0) {
#pragma unroll
      for (int k = 0; k < kHeld; ++k)
        if (holds(k)) held_[k].keep(vocab_size_ - first_ - k * kTile);
    }
    SoftmaxSum softmax;
#pragma unroll
    for (int k = 0; k < kHeld; ++k)
      if (holds(k)) softmax.max = fmaxf(softmax.max, held_[k].max());
#pragma unroll
    for (int k = 0; k < kHeld; ++k)
      if (holds(k)) softmax.sum += held_[k].exponentiate(softmax.max);
    return softmax;
  }

  // Adds the logits that are not held.
  __device__ void add_others(const float* row, SoftmaxSum& softmax) const {
    Logits logits;
#pragma unroll 1
    for (int v = again_; v < vocab_size_; v += again_step()) {
      logits.load(row + v);
      logits.keep(vocab_size_ - v);
      softmax.rescale(fmaxf(softmax.max, logits.max()));
      softmax.sum += logits.exponentiate(softmax.max);
    }
  }

  // scale * what exponentiate_held() left - weight onehot(target).
  __device__ void store_held_gradients(const Row& row, float scale, const Row& next) {
    G* const gradients = gradients_of(row);
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      if (holds(k) && op_.wants_gradients)
        held_[k].store_gradients(gradients + first_ + k * kTile, scale,
                                 static_cast<unsigned>(row.target - first_ - k * kTile),
                                 row.weight);
      load_tile(k, next);
    }
  }

  __device__ void store_other_gradients(const Row& row, float max, float scale) const {
    const float* const from = op_.logits_RV + row.index * op_.row_stride;
    G* const gradients = gradients_of(row);
    Logits logits;
#pragma unroll 1
    for (int tiles = again_ - lane_; tiles - rank_ * kTile < vocab_size_; tiles += again_step()) {
      // Gradients are no larger than logits, so those of these tiles lie on logits of these or of
      // earlier ones, which all have read by now.
      const int v = tiles + lane_;
      if (v < vocab_size_) logits.load(from + v);
      cluster_.sync();
      if (v >= vocab_size_) continue;
      logits.keep(vocab_size_ - v);
      logits.exponentiate(max);
      logits.store_gradients(gradients + v, scale, static_cast<unsigned>(row.target - v),
                             row.weight);
    }
  }

  const CrossEntropyRowsCuda& op_;
  const cg::cluster_group& cluster_;
  const int vocab_size_;
  const int rank_, num_blocks_;  // of the cluster
  const int lane_;               // of a tile
  const int first_;              // of the logits held; the next ones are kTile further
  const int held_end_;           // counted from first_
  const int again_;              // of those read again; the next ones are again_step() further
  Logits held_[kHeld];
};

template <class G, bool kReadsAgain>
__global__ void __launch_bounds__(kThreads, 2)
    cross_entropy_rows_kernel(const __grid_constant__ CrossEntropyRowsCuda op, int num_held) {
  const cg::cluster_group cluster = cg::this_cluster();
  RowWork<G, kReadsAgain> work(op, cluster, num_held);
  Row row = Row::load(op, blockIdx.x / cluster.num_blocks());
  work.load_held(row);
  cluster.sync();  // its blocks run: their shared memory may be written
  int parity = 0;
  while (row.index < op.num_rows) {
    const Row next = Row::load(op, row.index + gridDim.x / cluster.num_blocks());
    float loss = 0;
    if (row.weight == 0) {
      work.store_zeros(row, next);
    } else {
      loss = work.loss(row, next, parity);
      parity ^= 1;
    }
    if (work.is_first()) op.losses_R[row.index] = loss;
    row = next;
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
  launch_kernel(kernel,
                {.grid = static_cast<unsigned>(clusters * blocks),
                 .block = kThreads,
                 .cluster_blocks = blocks},
                stream, "launch cross_entropy rows", op, num_held);
}

}  // namespace

void cross_entropy_rows_cuda(const CrossEntropyRowsCuda& op, StreamHandle stream) {
  if (op.num_rows == 0) return;
  dispatch_cuda_dtype(op.gradient_dtype,
                      [&](auto tag) { cross_entropy_rows<decltype(tag)>(op, stream); });
}

}  // namespace longship
