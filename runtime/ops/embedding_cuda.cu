// V rows of the table, T tokens, E features, C chunks of sorted tokens.
#include "runtime/ops/embedding_cuda.h"

#include <algorithm>
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerThread = 4;  // on their way at a time

unsigned num_blocks(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

// All bits set: NaN in every floating dtype.
template <class Word>
__device__ Word nan_word() {
  if constexpr (sizeof(Word) == 16) {
    return {~0u, ~0u, ~0u, ~0u};
  } else {
    return static_cast<Word>(~0u);
  }
}

template <class Word>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ EmbeddingForwardCuda op, int64_t words_per_row,
                  int threads_per_row) {
  const int lane = static_cast<int>(threadIdx.x) % threads_per_row;
  const int group = static_cast<int>(threadIdx.x) / threads_per_row;
  const int groups = kThreads / threads_per_row;
  const int64_t first = int64_t{blockIdx.x} * (groups * kRowsPerThread) + group;
  int64_t ids[kRowsPerThread];
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const int64_t token = first + r * groups;
    ids[r] = token < op.num_tokens ? op.ids_T[token] : -1;
  }
  for (int64_t w = lane; w < words_per_row; w += threads_per_row) {
    Word words[kRowsPerThread];
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      words[r] = nan_word<Word>();
      if (ids[r] >= 0 && ids[r] < op.num_ids)
        words[r] = __ldg(static_cast<const Word*>(op.table_VE) + ids[r] * words_per_row + w);
    }
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int64_t token = first + r * groups;
      if (token < op.num_tokens) static_cast<Word*>(op.y_TE)[token * words_per_row + w] = words[r];
    }
  }
}

template <class Word>
void gather(const EmbeddingForwardCuda& op, StreamHandle stream) {
  const int64_t row_bytes = op.num_features * dtype_size(op.dtype);
  const int64_t words_per_row = row_bytes / static_cast<int64_t>(sizeof(Word));
  int threads_per_row = 1;
  while (threads_per_row < kThreads && threads_per_row < words_per_row) threads_per_row *= 2;
  const int64_t rows_per_block = kThreads / threads_per_row * kRowsPerThread;
  gather_kernel<Word><<<num_blocks(op.num_tokens, rows_per_block), kThreads, 0, stream>>>(
      op, words_per_row, threads_per_row);
  check_launch("embedding forward");
}

// ids[t] and tokens[t] = t, to be sorted; the id is V if it is none of the table's.
__global__ void __launch_bounds__(kThreads)
    number_tokens_kernel(const __grid_constant__ EmbeddingBackwardCuda op, uint32_t* ids,
                         int32_t* tokens) {
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t >= op.num_tokens) return;
  const int32_t id = op.ids_T[t];
  const bool exists = id >= 0 && id < op.num_ids;
  ids[t] = exists ? static_cast<uint32_t>(id) : static_cast<uint32_t>(op.num_ids);
  tokens[t] = static_cast<int32_t>(t);
}

struct SortedTokens {
  const uint32_t* ids = nullptr;
  const int32_t* tokens = nullptr;
};

// Block (c, b): chunk c, columns of part b. A run that lies within the chunk is added to the table.
// The sum of one that began before goes to partials[0][c], of one that only goes on after the chunk
// to partials[1][c].
template <class T, int kColumns>
__global__ void __launch_bounds__(kThreads)
    sum_chunks_kernel(const __grid_constant__ EmbeddingBackwardCuda op,
                      const __grid_constant__ SortedTokens sorted) {
  constexpr int kChunk = kEmbeddingChunkTokens;
  constexpr uint32_t kNone = ~0u;
  __shared__ uint32_t ids[kChunk + 2];  // with the neighbours on both sides
  __shared__ int32_t tokens[kChunk];
  const int64_t num_tokens = op.num_tokens, E = op.num_features;
  const int64_t begin = int64_t{blockIdx.x} * kChunk;
  const int count = static_cast<int>(min(int64_t{kChunk}, num_tokens - begin));
  for (int i = static_cast<int>(threadIdx.x); i < count + 2; i += static_cast<int>(blockDim.x)) {
    const int64_t position = begin + i - 1;
    ids[i] = position >= 0 && position < num_tokens ? sorted.ids[position] : kNone;
    if (i < count) tokens[i] = sorted.tokens[begin + i];
  }
  __syncthreads();
  const int64_t column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kColumns;
  if (column >= E) return;
  const T* const dy = static_cast<const T*>(op.dy_TE) + column;
  float* const partial = op.partials_2CE + int64_t{blockIdx.x} * E + column;
  const auto began_before = [&](int i) { return ids[0] == ids[i + 1]; };
  const auto goes_on = [&](int i) { return ids[i + 2] == ids[i + 1]; };
  const auto is_table_row = [&](int i) {
    return !began_before(i) && !goes_on(i) && ids[i + 1] < op.num_ids;
  };
  float sum[kColumns] = {};
  for (int first = 0; first < count; first += kRowsPerThread) {
    // Rows of the table are on their way together with what is added to them.
    float rows[kRowsPerThread][kColumns], table[kRowsPerThread][kColumns];
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int i = min(first + r, count - 1);
      load_elements(dy + tokens[i] * E, rows[r]);
      if (is_table_row(i)) load_elements(op.dtable_VE + ids[i + 1] * E + column, table[r]);
    }
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int i = first + r;
      if (i >= count) break;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sum[j] += rows[r][j];
      if (goes_on(i) && i + 1 < count) continue;
      if (began_before(i)) {
        store_elements(sum, partial);
      } else if (goes_on(i)) {
        store_elements(sum, partial + gridDim.x * E);
      } else if (is_table_row(i)) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[j] += table[r][j];
        store_elements(sum, op.dtable_VE + ids[i + 1] * E + column);
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sum[j] = 0;
    }
  }
}

// Block (c, b): the run that begins in chunk c and goes on after it, if there is one.
template <int kColumns>
__global__ void __launch_bounds__(kThreads)
    join_chunks_kernel(const __grid_constant__ EmbeddingBackwardCuda op,
                       const __grid_constant__ SortedTokens sorted) {
  constexpr int64_t kChunk = kEmbeddingChunkTokens;
  const int64_t E = op.num_features, C = gridDim.x, c = blockIdx.x;
  if (c + 1 == C) return;
  const uint32_t id = sorted.ids[(c + 1) * kChunk];
  const bool goes_on = sorted.ids[(c + 1) * kChunk - 1] == id;
  const bool began_before = c > 0 && sorted.ids[c * kChunk - 1] == id;
  if (!goes_on || began_before || id >= op.num_ids) return;
  const int64_t column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kColumns;
  if (column >= E) return;
  const float* const partial = op.partials_2CE + column;
  float sum[kColumns];
  load_elements(partial + (C + c) * E, sum);
  bool in_run = true;
  for (int64_t first = c + 1; first < C && in_run; first += kRowsPerThread) {
    float parts[kRowsPerThread][kColumns];
    bool reaches[kRowsPerThread];
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      reaches[r] = first + r < C && sorted.ids[(first + r) * kChunk] == id;
      if (reaches[r]) load_elements(partial + (first + r) * E, parts[r]);
    }
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      in_run = reaches[r];
      if (!in_run) break;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sum[j] += parts[r][j];
    }
  }
  add_elements_to(op.dtable_VE + id * E + column, sum);
}

SortedTokens sort_tokens(const EmbeddingBackwardCuda& op, StreamHandle stream) {
  const int64_t T = op.num_tokens;
  auto* const ids = reinterpret_cast<uint32_t*>(op.sorted_4T);
  cub::DoubleBuffer<uint32_t> keys(ids, ids + T);
  cub::DoubleBuffer<int32_t> values(op.sorted_4T + 2 * T, op.sorted_4T + 3 * T);
  number_tokens_kernel<<<num_blocks(T, kThreads), kThreads, 0, stream>>>(op, keys.Current(),
                                                                         values.Current());
  check_launch("embedding backward");
  const int num_bits = std::bit_width(static_cast<uint32_t>(op.num_ids));
  auto scratch_bytes = static_cast<size_t>(embedding_sort_bytes(T));
  check_cuda(cub::DeviceRadixSort::SortPairs(op.sort_scratch, scratch_bytes, keys, values,
                                             static_cast<int>(T), 0, num_bits, stream),
             "sort tokens by id");
  return {keys.Current(), values.Current()};
}

template <class T, int kColumns>
void add_rows(const EmbeddingBackwardCuda& op, const SortedTokens& sorted, StreamHandle stream) {
  const int64_t columns = (op.num_features + kColumns - 1) / kColumns;
  const auto threads = static_cast<unsigned>(std::min<int64_t>((columns + 31) / 32 * 32, kThreads));
  const dim3 grid(static_cast<unsigned>(embedding_num_chunks(op.num_tokens)),
                  num_blocks(columns, threads));
  sum_chunks_kernel<T, kColumns><<<grid, threads, 0, stream>>>(op, sorted);
  check_launch("embedding backward");
  join_chunks_kernel<kColumns><<<grid, threads, 0, stream>>>(op, sorted);
  check_launch("embedding backward");
}

}  // namespace

void embedding_forward_cuda(const EmbeddingForwardCuda& op, StreamHandle stream) {
  if (op.num_tokens == 0 || op.num_features == 0) return;
  const bool aligned = is_vector_aligned(op.table_VE) && is_vector_aligned(op.y_TE) &&
                       op.num_features * dtype_size(op.dtype) % 16 == 0;
  if (aligned) return gather<uint4>(op, stream);
  dispatch_cuda_dtype(op.dtype, [&](auto tag) {
    if constexpr (sizeof(tag) == 2) {
      gather<uint16_t>(op, stream);
    } else {
      gather<uint32_t>(op, stream);
    }
  });
}

void embedding_backward_cuda(const EmbeddingBackwardCuda& op, StreamHandle stream) {
  if (op.num_tokens == 0 || op.num_features == 0 || op.num_ids == 0) return;
  const SortedTokens sorted = sort_tokens(op, stream);
  dispatch_cuda_dtype(op.dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kColumns = kSharedLaneElements<T, float>;
    const bool aligned = op.num_features % kColumns == 0 && is_vector_aligned(op.dy_TE) &&
                         is_vector_aligned(op.dtable_VE) && is_vector_aligned(op.partials_2CE);
    if (aligned) {
      add_rows<T, kColumns>(op, sorted, stream);
    } else {
      add_rows<T, 1>(op, sorted, stream);
    }
  });
}

}  // namespace longship
