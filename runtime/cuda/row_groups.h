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
  int vectors_per_thread = 0;  // 1 or 2; 0: rows are too long, or no whole number of vectors
  int threads_per_row = 0;     // a power of two, 8 to 1024
  int rows_per_block = 0;
  int64_t num_blocks = 0;  // at least 1

  int block_threads() const { return threads_per_row * rows_per_block; }
};

// Blocks are as many as an H100 or H200 runs at a time with 64 registers a thread; that many on
// every GPU, so that sums over rows do not depend on it.
inline RowGroups row_groups(DType dtype, int64_t num_rows, int64_t num_features) {
  constexpr int64_t kVectorBytes = 16, kMultiprocessors = 132;
  constexpr int kMostThreads = 1024, kBlockThreads = 512;
  const int64_t row_bytes = num_features * dtype_size(dtype);
  const int64_t num_vectors = (row_bytes + kVectorBytes - 1) / kVectorBytes;
  RowGroups groups;
  groups.vectors_per_thread = num_vectors <= 32 ? 1 : 2;
  groups.threads_per_row = 8;
  while (groups.threads_per_row < kMostThreads &&
         groups.threads_per_row * groups.vectors_per_thread < num_vectors)
    groups.threads_per_row *= 2;
  groups.rows_per_block = std::max(1, kBlockThreads / groups.threads_per_row);
  const int64_t rounds = (num_rows + groups.rows_per_block - 1) / groups.rows_per_block;
  groups.num_blocks =
      std::clamp<int64_t>(rounds, 1, kMultiprocessors * (kMostThreads / groups.block_threads()));
  if (num_vectors > groups.threads_per_row * groups.vectors_per_thread ||
      row_bytes % kVectorBytes != 0)
    groups.vectors_per_thread = 0;
  return groups;
}

}  // namespace longship
