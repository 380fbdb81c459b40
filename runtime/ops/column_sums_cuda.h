// Sums over all rows on a GPU, as the gradient of a bias needs them: what the kernels of
// column_sums_cuda.cu are given. Contiguous fp32 or bf16.
#pragma once

#include <algorithm>

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct ColumnSumsCuda {
  DType dtype = DType::kF32;
  int64_t num_rows = 0;
  int64_t num_columns = 0;
  const void* x_RC = nullptr;
  float* partials_BC = nullptr;  // scratch, with B = column_sums_num_partials()
  float* sums_C = nullptr;       // overwritten
};

// Sums of groups of rows in fp32, then of these in fp64, always in the same order: no atomics, and
// the same bits on any GPU.
inline int64_t column_sums_num_partials(int64_t num_rows, int64_t num_columns) {
  constexpr int64_t kLeastRows = 64, kBlocks = 1024, kLeastBlockColumns = 128;
  const int64_t most = std::max<int64_t>(1, kBlocks * kLeastBlockColumns / (num_columns + 1));
  return std::clamp<int64_t>(num_rows / kLeastRows, 1, std::min<int64_t>(most, kBlocks));
}

void column_sums_cuda(const ColumnSumsCuda& op, StreamHandle stream);

}  // namespace longship
