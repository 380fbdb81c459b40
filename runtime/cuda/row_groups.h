// How kernels that reduce over the last dimension spread rows over threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/dtype.h"

namespace longship {

// A row lies in the registers of `threads_per_row` neighbouring threads, as vectors of 16 bytes:
// thread t holds the vectors t, t + threads_per_row, ... A block holds rows_per_block rows, then
// the rows that are rows_per_block * num_blocks further on.
struct RowGroups {
  int vectors_per_thread = 0;  // 1 to 3; 0: rows are too long, or no whole number of vectors
  int threads_per_row = 0;     // 8, 16, or a multiple of 32 up to 1024
  int rows_per_block = 0;
  int64_t num_blocks = 0;  // at least 1

  int block_threads() const { return threads_per_row * rows_per_block; }
};

// Threads of a block that has several rows, and of a multiprocessor: three vectors a thread need
// up to 80 registers, fewer no more than 64.
template <int kVectors>
inline constexpr int kRowBlockThreads = kVectors == 3 ? 256 : 512;
template <int kVectors>
inline constexpr int kResidentRowThreads = kVectors == 3 ? 768 : 1024;

// Blocks are as many as an H100 or H200 runs at a time; that many on every GPU, so that sums over
// rows do not depend on it.
inline RowGroups row_groups(DType dtype, int64_t num_rows, int64_t num_features) {
  constexpr int64_t kVectorBytes = 16, kMultiprocessors = 132;
  constexpr int64_t kWarp = 32, kMostThreads = 1024;
  const int64_t row_bytes = num_features * dtype_size(dtype);
  const int64_t num_vectors = (row_bytes + kVectorBytes - 1) / kVectorBytes;
  RowGroups groups;
  // Three where rows then stay within a warp, which needs no barrier.
  const bool is_short = num_vectors <= kWarp, fits_warp = num_vectors <= 3 * kWarp;
  const int vectors = is_short ? 1 : fits_warp && num_vectors > 2 * kWarp ? 3 : 2;
  int64_t threads = 8;
  while (is_short && threads < num_vectors) threads *= 2;
  if (!is_short) threads = ((num_vectors + vectors - 1) / vectors + kWarp - 1) / kWarp * kWarp;
  groups.threads_per_row = static_cast<int>(std::min(threads, kMostThreads));
  const int block_threads = vectors == 3 ? kRowBlockThreads<3> : kRowBlockThreads<2>;
  const int resident = vectors == 3 ? kResidentRowThreads<3> : kResidentRowThreads<2>;
  groups.rows_per_block = std::max(1, block_threads / groups.threads_per_row);
  const int64_t rounds = (num_rows + groups.rows_per_block - 1) / groups.rows_per_block;
  groups.num_blocks =
      std::clamp<int64_t>(rounds, 1, kMultiprocessors * (resident / groups.block_threads()));
  if (threads <= kMostThreads && row_bytes % kVectorBytes == 0) groups.vectors_per_thread = vectors;
  return groups;
}

}  // namespace longship
