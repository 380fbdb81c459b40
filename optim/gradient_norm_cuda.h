// Sums of squares over all gradients on a GPU: what the kernels of gradient_norm_cuda.cu are given.
#pragma once

#include <cstdint>

#include "runtime/cuda/handles.h"

namespace longship {

inline constexpr int64_t kGradientChunk = int64_t{1} << 15;

struct GradientEntry {
  const float* data = nullptr;
  int64_t num_elements = 0;
  int64_t first_chunk = 0;   // how many chunks the entries before have together
  int64_t first_square = 0;  // where the sum of this entry's first chunk goes
};

// squares[first_square + c] = sum of the squares of chunk c of an entry, in fp64 and in an order
// that does not depend on where the gradients lie. entries_N lies on the GPU.
void sum_chunk_squares_cuda(const GradientEntry* entries_N, int64_t num_entries, int64_t num_chunks,
                            double* squares_C, StreamHandle stream);

// total[0] = sum of squares, in a fixed order.
void add_chunk_squares_cuda(const double* squares_C, int64_t num_chunks, double* total_1,
                            StreamHandle stream);

}  // namespace longship
