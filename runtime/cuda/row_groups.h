// How kernels that reduce over the last dimension spread rows over threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/dtype.h"

namespace longship {

// A row is the work of `threads_per_row` neighbouring threads, as vectors of 16 bytes: thread t has
// the vectors t, t + threads_per_row, ... A block works on rows_per_block rows, then on those that
// are rows_per_block * num_groups further on; a long row is the work of a cluster of blocks_per_row
// blocks.
struct RowGroups {
  int vectors_per_thread = 0;  // 1 to 4; 0: rows too long, too many, or no whole number of vectors
  int threads_per_row = 0;     // 8, 16, or whole warps
  int rows_per_block = 1;
  int blocks_per_row = 1;  // 1, 2, 4 or 8
  int64_t num_groups = 0;  // of blocks: at least 1

  int block_threads() const { return threads_per_row * rows_per_block / blocks_per_row; }
};

// Most threads of a block, and blocks of a multiprocessor, by vectors of a thread: three take up to
// 128 registers, the others do with 64. Few blocks leave few partial sums; blocks whose rows lie
// within warps, and so never wait, share their multiprocessor with one that begins while they end.
constexpr int row_block_threads(int vectors) {
  return vectors == 1 ? 512 : vectors == 3 ? 256 : 1024;
}
constexpr int resident_row_blocks(int vectors) {
  return vectors == 1 || vectors == 3 ? 2 : 1;
}

// What the kernel does with a row.
struct RowKernelTraits {
  int num_tensors = 1;       // of which it loads a row ahead
  int long_row_vectors = 2;  // of a thread, where a block of 1024 is too small for a row at two
                             // each; 2 or 4, as registers and shared memory allow
};

// Blocks are as many as an H100 or H200 runs at a time; that many on every GPU, so that sums over
// rows do not depend on it.
inline RowGroups row_groups(DType dtype, int64_t num_rows, int64_t num_features,
                            const RowKernelTraits& traits) {
  // That a block loads ahead: fewer do not keep memory busy, more slow it down.
  constexpr int64_t kBytesAhead = 32 << 10;
  constexpr int64_t kVectorBytes = 16, kMultiprocessors = 132, kProcessorClusters = 8;
  constexpr int kWarp = 32, kMostBlocksPerRow = 8;
  const int64_t row_bytes = num_features * dtype_size(dtype);
  const int64_t num_vectors = (row_bytes + kVectorBytes - 1) / kVectorBytes;
  RowGroups groups;
  // Three where rows then stay within a warp, which needs no barrier.
  const bool is_short = num_vectors <= kWarp, is_long = num_vectors > 2 * row_block_threads(2);
  const bool takes_three = num_vectors > 2 * kWarp && num_vectors <= 3 * kWarp;
  const int vectors = is_short ? 1 : takes_three ? 3 : is_long ? traits.long_row_vectors : 2;
  const int most_threads = row_block_threads(vectors);
  while (groups.blocks_per_row < kMostBlocksPerRow &&
         num_vectors > int64_t{vectors} * most_threads * groups.blocks_per_row)
    groups.blocks_per_row *= 2;
  const int64_t multiple = int64_t{vectors} * kWarp * groups.blocks_per_row;
  const int64_t warps = (num_vectors + multiple - 1) / multiple;  // of a block
  int threads = 8;
  while (is_short && threads < num_vectors) threads *= 2;
  if (!is_short) threads = static_cast<int>(std::min<int64_t>(warps * kWarp, most_threads));
  groups.threads_per_row = threads * groups.blocks_per_row;
  if (groups.blocks_per_row == 1) {
    // Whole warps; no more than there are barriers for, than memory needs, and a multiprocessor's
    // share of the rows.
    const int64_t bytes = std::max<int64_t>(row_bytes * traits.num_tensors, 1);
    const int64_t most_rows =
        std::min({int64_t{most_threads / threads}, int64_t{threads > kWarp ? 15 : most_threads},
                  (kBytesAhead + bytes - 1) / bytes});
    const int64_t warp_rows = std::max(kWarp / threads, 1), unit = kMultiprocessors * warp_rows;
    const int64_t share = (num_rows + unit - 1) / unit * warp_rows;
    groups.rows_per_block = static_cast<int>(std::clamp(share, warp_rows, most_rows));
  }
  // Clusters lie within one of the GPU's processor clusters, each of which may have blocks to
  // spare.
  const int64_t blocks = kMultiprocessors * resident_row_blocks(vectors) -
                         kProcessorClusters * (groups.blocks_per_row - 1);
  const int64_t rounds = (num_rows + groups.rows_per_block - 1) / groups.rows_per_block;
  groups.num_groups = std::clamp<int64_t>(rounds, 1, blocks / groups.blocks_per_row);
  constexpr int64_t kMostRows = 1 << 30;  // kernels count them as int
  if (int64_t{groups.threads_per_row} * vectors >= num_vectors && row_bytes % kVectorBytes == 0 &&
      num_rows <= kMostRows)
    groups.vectors_per_thread = vectors;
  return groups;
}

}  // namespace longship
