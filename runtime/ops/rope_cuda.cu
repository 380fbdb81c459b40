// T tokens, H heads, D head size, R rotated features (cos_TR and sin_TR hold R/2 pairs).
#include "runtime/ops/rope_cuda.h"

#include <bit>

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 4;  // that one thread turns by the same angles

__global__ void __launch_bounds__(kThreads)
    angles_kernel(const __grid_constant__ RopeAnglesCuda op) {
  const int64_t count = op.num_tokens * op.num_pairs, step = int64_t{gridDim.x} * kThreads;
  for (int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x; n < count; n += step) {
    const double position = static_cast<double>(op.positions_T[n / op.num_pairs]);
    const double high = op.frequency_R2[n % op.num_pairs * 2];
    const double low = op.frequency_R2[n % op.num_pairs * 2 + 1];
    // As on the CPU. The product must be rounded where it stands: not fused into a difference.
    const double product = __dmul_rn(position, high);
    const double rounding = __fma_rn(position, high, -product);
    const double turns = (product - nearbyint(product)) + __fma_rn(position, low, rounding);
    double sin, cos;
    sincospi(2 * turns, &sin, &cos);
    op.cos_TR[n] = static_cast<float>(cos);
    op.sin_TR[n] = static_cast<float>(sin);
  }
}

// A thread has kSize features of kHeads heads of a token, so that warps read and write whole lines
// of memory even where half a head is shorter than a line. The features that they turn with come
// from the lane that has them, if kExchanges: D / kSize is a power of two up to 32. Otherwise they
// are read beside them.
template <class T, int kSize, bool kExchanges>
__global__ void __launch_bounds__(kThreads, kExchanges ? 4 : 3)
    rope_kernel(const __grid_constant__ RopeCuda op) {
  const int64_t H = op.num_heads, D = op.head_size;
  const uint64_t parts = D / kSize, head_groups = (H + kHeads - 1) / kHeads;
  const uint64_t count = op.num_tokens * head_groups * parts;
  const uint64_t step = uint64_t{gridDim.x} * kThreads;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // All lanes of a warp go on as long as one of them has work.
  for (uint64_t n = uint64_t{blockIdx.x} * kThreads + threadIdx.x; n - lane < count; n += step) {
    const bool exists = n < count;
    const uint64_t item = exists ? n : count - 1;
    const uint64_t token_group = item / parts;
    const int64_t d = static_cast<int64_t>(item - token_group * parts) * kSize;
    const int64_t t = static_cast<int64_t>(token_group / head_groups);
    const int64_t h = static_cast<int64_t>(token_group - t * head_groups) * kHeads;
    const int num_heads = static_cast<int>(min(H - h, int64_t{kHeads}));
    const T* const x = static_cast<const T*>(op.x_THD) + (t * H + h) * D + d;
    T* const y = static_cast<T*>(op.y_THD) + (t * H + h) * D + d;
    const int64_t feature = d - op.first;  // of those that turn
    const bool turns = feature >= 0 && feature < 2 * op.num_pairs;
    const bool is_second = feature >= op.num_pairs;
    const int64_t pair = !turns ? 0 : is_second ? feature - op.num_pairs : feature;
    const int64_t distance = !turns ? 0 : is_second ? -op.num_pairs : op.num_pairs;
    const int other_lane = lane + static_cast<int>(distance / kSize);
    float values[kHeads][kSize], others[kHeads][kSize], cos[kSize], sin[kSize];
    // The last head again rather than a branch, and unused angles where nothing turns: branches
    // would keep loads from running together.
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      const T* const from = x + min(i, num_heads - 1) * D;
      load_elements(from, values[i]);
      if constexpr (!kExchanges) load_elements(from + distance, others[i]);
    }
    load_elements(op.cos_TR + t * op.num_pairs + pair, cos);
    load_elements(op.sin_TR + t * op.num_pairs + pair, sin);
    const float sign = is_second ? op.direction : -op.direction;
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        if constexpr (kExchanges) others[i][j] = __shfl_sync(0xffffffffu, values[i][j], other_lane);
        const float turned = values[i][j] * cos[j] + others[i][j] * (sign * sin[j]);
        values[i][j] = turns ? turned : values[i][j];
      }
      if (exists && i < num_heads) store_elements_whole(values[i], y + i * D);
    }
  }
}

unsigned blocks_for(int64_t count) {
  return static_cast<unsigned>(
      std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, int64_t{1} << 30));
}

template <class T, int kSize>
void rope(const RopeCuda& op, StreamHandle stream) {
  const int64_t parts = op.head_size / kSize;
  const bool exchanges = parts <= 32 && std::has_single_bit(static_cast<uint64_t>(parts));
  const auto kernel = exchanges ? rope_kernel<T, kSize, true> : rope_kernel<T, kSize, false>;
  const int64_t items = op.num_tokens * ((op.num_heads + kHeads - 1) / kHeads) * parts;
  kernel<<<blocks_for(items), kThreads, 0, stream>>>(op);
}

}  // namespace

void rope_angles_cuda(const RopeAnglesCuda& op, StreamHandle stream) {
  if (op.num_tokens == 0) return;
  angles_kernel<<<blocks_for(op.num_tokens * op.num_pairs), kThreads, 0, stream>>>(op);
  check_launch("rope_angles");
}

void rope_cuda(const RopeCuda& op, StreamHandle stream) {
  if (op.num_tokens == 0 || op.num_heads == 0) return;
  const bool whole = op.first % 8 == 0 && op.num_pairs % 8 == 0 &&
                     has_whole_lanes(op.head_size, {op.x_THD, op.y_THD, op.cos_TR, op.sin_TR});
  dispatch_cuda_dtype(op.dtype, [&](auto tag) {
    using T = decltype(tag);
    whole ? rope<T, kSharedLaneElements<T>>(op, stream) : rope<T, 1>(op, stream);
  });
  check_launch("rope");
}

}  // namespace longship
