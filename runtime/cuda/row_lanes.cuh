// Rows that a few neighbouring threads of one warp share: each of them works on kSize elements at a
// time, then on those num_lanes * kSize further on.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "runtime/cuda/vector16.cuh"

namespace longship {

// What load_elements() and store_elements() of 8 need.
inline constexpr int kLaneElements = 8;
inline bool has_whole_lanes(int64_t row_length, std::initializer_list<const void*> addresses) {
  return row_length % kLaneElements == 0 &&
         std::all_of(addresses.begin(), addresses.end(), is_vector_aligned);
}

// How many elements a thread takes at a time where tensors of these types meet: 16 bytes of the
// widest, so that neighbouring threads write whole sectors of memory in every instruction.
template <class... T>
inline constexpr int kSharedLaneElements = (... || (sizeof(T) == sizeof(float))) ? 4 : 8;

// A launch over num_rows rows of row_length elements, `size` of them a thread at a time.
struct RowLanes {
  static constexpr int kThreads = 256;

  int num_lanes = 1;  // a power of two up to 32
  unsigned num_blocks = 1;

  // A thread works on rows_per_thread rows at a time.
  RowLanes(int64_t num_rows, int64_t row_length, int size, int rows_per_thread = 1) {
    while (num_lanes < 32 && num_lanes * size < row_length) num_lanes *= 2;
    const int64_t rows_per_block = kThreads / num_lanes * rows_per_thread;
    num_blocks = static_cast<unsigned>(
        std::clamp<int64_t>((num_rows + rows_per_block - 1) / rows_per_block, 1, int64_t{1} << 30));
  }
};

// Calls f(rows, lane) for the rows of this thread, kRows at a time so that enough bytes are on
// their way; the last ones may lie beyond num_rows. All threads of a row's group call it together.
template <int kRows, class F>
__device__ void for_each_lane_rows(int64_t num_rows, int num_lanes, F&& f) {
  const int lane = static_cast<int>(threadIdx.x) % num_lanes;
  const int64_t groups = blockDim.x / num_lanes;
  int64_t first = int64_t{blockIdx.x} * (groups * kRows) + threadIdx.x / num_lanes;
  for (; first < num_rows; first += int64_t{gridDim.x} * (groups * kRows)) {
    int64_t rows[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) rows[r] = first + r * groups;
    f(rows, lane);
  }
}

// Calls f(row, lane) for the rows of this thread. All threads of a row's group call it together.
template <class F>
__device__ void for_each_lane_row(int64_t num_rows, int num_lanes, F&& f) {
  for_each_lane_rows<1>(num_rows, num_lanes,
                        [&](const int64_t(&rows)[1], int lane) { f(rows[0], lane); });
}

// The lanes of the group of this thread, for __syncwarp() and shuffles.
__device__ inline unsigned lane_group(int num_lanes) {
  const unsigned first =
      threadIdx.x % 32 / static_cast<unsigned>(num_lanes) * static_cast<unsigned>(num_lanes);
  return (0xffffffffu >> (32 - num_lanes)) << first;
}

// The sum over the group; all of its threads get it, and always with the same bits.
__device__ inline float lane_sum(float value, int num_lanes) {
  const unsigned group = lane_group(num_lanes);
  for (int step = num_lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(group, value, step);
  return value;
}

}  // namespace longship
