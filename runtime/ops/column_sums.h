// Sums over all tokens, as gradients of weights need them: precise over millions of rows, and the
// same bits on any number of threads.
#pragma once

#include <algorithm>
#include <vector>

#include "runtime/parallel_for.h"

namespace longship {

// [num_columns] fp64. add_row(row, sums) adds a row to sums[0, num_columns), of type A, and may do
// other work of that row; rows go to threads in blocks. Groups of rows are summed in A, groups into
// the fp64 sum of a block, blocks in ascending order; blocks depend on the number of rows only.
template <class A, class AddRow>
Tensor column_sums(const Context& ctx, int64_t num_rows, int64_t num_columns, AddRow&& add_row) {
  constexpr int64_t kGroupRows = 32;
  constexpr int64_t kMaxBlocks = 256;
  const int64_t num_blocks = std::min(kMaxBlocks, (num_rows + kGroupRows - 1) / kGroupRows);
  const Tensor blocks_BC = ctx.zeros({num_blocks, num_columns}, DType::kF64);
  parallel_for(ctx, num_blocks, 1, [&](int64_t block_begin, int64_t block_end) {
    std::vector<A> group(static_cast<size_t>(num_columns));
    for (int64_t b = block_begin; b < block_end; ++b) {
      double* block = blocks_BC.data<double>() + b * num_columns;
      const int64_t end = num_rows * (b + 1) / num_blocks;
      for (int64_t first = num_rows * b / num_blocks; first < end; first += kGroupRows) {
        std::fill(group.begin(), group.end(), A{0});
        for (int64_t row = first; row < std::min(first + kGroupRows, end); ++row)
          add_row(row, group.data());
        for (int64_t c = 0; c < num_columns; ++c)
          block[c] += static_cast<double>(group[static_cast<size_t>(c)]);
      }
    }
  });
  const Tensor total_C = ctx.zeros({num_columns}, DType::kF64);
  double* total = total_C.data<double>();
  for (int64_t b = 0; b < num_blocks; ++b)
    for (int64_t c = 0; c < num_columns; ++c)
      total[c] += blocks_BC.data<double>()[b * num_columns + c];
  return total_C;
}

}  // namespace longship
