// V rows of the table, T tokens, E features, C chunks of sorted tokens.
#include "runtime/ops/embedding_cuda.h"

#include <algorithm>
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_lanes.cuh"

namespace longship {
namespace {

constexpr int kThreads = kEmbeddingBlockThreads;
constexpr int kChunk = kEmbeddingChunkTokens;
constexpr int kRowsPerThread = 4;  // on their way at a time
constexpr int kPartialsPerThread = 16;

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
      // What is written does not drive rows of frequent ids out of the cache.
      if (token < op.num_tokens)
        __stcs(static_cast<Word*>(op.y_TE) + token * words_per_row + w, words[r]);
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
    number_tokens_kernel(const __grid_constant__ EmbeddingPlanCuda op, uint32_t* ids,
                         int32_t* tokens) {
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t >= op.num_tokens) return;
  const int32_t id = op.ids_T[t];
  const bool exists = id >= 0 && id < op.num_ids;
  ids[t] = exists ? static_cast<uint32_t>(id) : static_cast<uint32_t>(op.num_ids);
  tokens[t] = static_cast<int32_t>(t);
}

// The first of the ascending ids [begin, end) that is not below `id`, or `end`.
__device__ int lower_bound(const uint32_t* ids, int begin, int end, uint32_t id) {
  while (begin < end) {
    const int middle = begin + (end - begin) / 2;
    if (ids[middle] < id) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// A thread a chunk.
__global__ void __launch_bounds__(kThreads)
    plan_chunks_kernel(const __grid_constant__ EmbeddingPlanCuda op, const uint32_t* ids,
                       int num_chunks, int num_column_blocks) {
  const int c = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (c >= num_chunks) return;
  for (int b = 0; b < num_column_blocks; ++b) op.num_done_BC[int64_t{b} * num_chunks + c] = 0;
  const int T = lower_bound(ids, 0, static_cast<int>(op.num_tokens), op.num_ids);  // without V
  const int begin = c * kChunk, end = min(begin + kChunk, T);
  EmbeddingChunk work{.begin = begin, .end = begin};
  if (begin < end) {
    work.end = end;
    // The run that goes on into this chunk.
    if (begin > 0 && ids[begin - 1] == ids[begin]) {
      const int run_begin = lower_bound(ids, 0, begin, ids[begin]);
      const int run_end = lower_bound(ids, begin, T, ids[begin] + 1);
      if (run_end - run_begin > kChunk) {
        work.first_chunk = run_begin / kChunk;
      } else {
        work.begin = min(run_end, end);
      }
    }
    // The run that begins in this chunk and goes on after it.
    if (end < T && ids[end] == ids[end - 1]) {
      const int run_begin = lower_bound(ids, begin, end, ids[end]);
      const int run_end = lower_bound(ids, end, T, ids[end] + 1);
      if (run_begin > begin || begin == 0 || ids[begin - 1] != ids[begin]) {
        if (run_end - run_begin > kChunk) {
          work.last_chunk = (run_end - 1) / kChunk;
        } else {
          work.end = run_end;
        }
      }
    }
  }
  op.chunks_C[c] = work;
}

// From the cache that all multiprocessors share: other blocks wrote it.
template <int kColumns>
__device__ void load_shared_elements(const float* from, float (&values)[kColumns]) {
  if constexpr (kColumns == 1) {
    values[0] = __ldcg(from);
  } else {
    static_assert(kColumns == 4);
    const float4 four = __ldcg(reinterpret_cast<const float4*>(from));
    values[0] = four.x;
    values[1] = four.y;
    values[2] = four.z;
    values[3] = four.w;
  }
}

// This block has left its part of the run that was cut into the chunks [first, last]. The last
// block that comes here adds them up, in their order. All threads call it, those without a column
// with one below zero.
template <int kColumns>
__device__ void join_run(const EmbeddingBackwardCuda& op, int first, int last, uint32_t id,
                         int64_t column) {
  __shared__ bool is_last;
  const int64_t E = op.num_features;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t* const num_done = op.num_done_BC + int64_t{blockIdx.y} * gridDim.x + first;
    is_last = atomicAdd(num_done, 1) == last - first;
    if (is_last) *num_done = 0;
  }
  __syncthreads();
  if (!is_last || column < 0) return;
  __threadfence();
  const float* const partial = op.partials_2CE + column;
  float table[kColumns], sum[kColumns];
  load_elements(op.dtable_VE + id * E + column, table);
  load_shared_elements(partial + (int64_t{gridDim.x} + first) * E, sum);
  for (int next = first + 1; next <= last; next += kPartialsPerThread) {
    float parts[kPartialsPerThread][kColumns];
#pragma unroll
    for (int r = 0; r < kPartialsPerThread; ++r)
      load_shared_elements(partial + min(next + r, last) * E, parts[r]);
#pragma unroll
    for (int r = 0; r < kPartialsPerThread; ++r) {
      if (next + r > last) break;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sum[j] += parts[r][j];
    }
  }
#pragma unroll
  for (int j = 0; j < kColumns; ++j) table[j] += sum[j];
  store_elements(table, op.dtable_VE + id * E + column);
}

// Block (c, b): chunk c, columns of part b. A run that is not cut is added to the table. Of one
// that is, the sum over chunk c goes to partials[1][c] where it begins, else to partials[0][c].
template <class T, int kColumns>
__global__ void __launch_bounds__(kThreads)
    sum_chunks_kernel(const __grid_constant__ EmbeddingBackwardCuda op) {
  __shared__ uint32_t sorted_ids[2 * kChunk];
  __shared__ int32_t sorted_tokens[2 * kChunk];
  const int64_t E = op.num_features;
  const int c = static_cast<int>(blockIdx.x), begin = c * kChunk;
  const EmbeddingChunk work = op.chunks_C[c];
  // All that `work` may name, so as not to wait for it.
  const int num_loaded = static_cast<int>(min(int64_t{2} * kChunk, op.num_tokens - begin));
  for (int i = static_cast<int>(threadIdx.x); i < num_loaded; i += static_cast<int>(blockDim.x)) {
    sorted_ids[i] = static_cast<uint32_t>(op.ids_T[begin + i]);
    sorted_tokens[i] = op.tokens_T[begin + i];
  }
  __syncthreads();
  const int count = work.end - work.begin;
  const uint32_t* const ids = sorted_ids + (work.begin - begin);
  const int32_t* const tokens = sorted_tokens + (work.begin - begin);
  int64_t column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kColumns;
  if (column >= E) column = -1;
  const T* const dy = static_cast<const T*>(op.dy_TE) + column;
  const auto ends = [&](int i) { return i + 1 == count || ids[i + 1] != ids[i]; };
  const auto began_before = [&](int i) { return work.first_chunk >= 0 && ids[i] == ids[0]; };
  const auto is_cut = [&](int i) {
    return began_before(i) || (work.last_chunk >= 0 && i + 1 == count);
  };
  float sum[kColumns] = {};
  for (int first = 0; first < count && column >= 0; first += kRowsPerThread) {
    // Rows of the table are on their way together with what is added to them.
    float rows[kRowsPerThread][kColumns], table[kRowsPerThread][kColumns];
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int i = min(first + r, count - 1);
      load_elements(dy + tokens[i] * E, rows[r]);
      if (ends(i) && !is_cut(i)) load_elements(op.dtable_VE + ids[i] * E + column, table[r]);
    }
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int i = first + r;
      if (i >= count) break;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sum[j] += rows[r][j];
      if (!ends(i)) continue;
      if (is_cut(i)) {
        const int64_t place = began_before(i) ? c : int64_t{gridDim.x} + c;
        store_elements(sum, op.partials_2CE + place * E + column);
      } else {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[j] += table[r][j];
        store_elements(sum, op.dtable_VE + ids[i] * E + column);
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sum[j] = 0;
    }
  }
  if (work.first_chunk >= 0)
    join_run<kColumns>(op, work.first_chunk, op.chunks_C[work.first_chunk].last_chunk, ids[0],
                       column);
  if (work.last_chunk >= 0) join_run<kColumns>(op, c, work.last_chunk, ids[count - 1], column);
}

template <class T, int kColumns>
void add_rows(const EmbeddingBackwardCuda& op, StreamHandle stream) {
  const int64_t columns = (op.num_features + kColumns - 1) / kColumns;
  const auto threads = static_cast<unsigned>(std::min<int64_t>((columns + 31) / 32 * 32, kThreads));
  const dim3 grid(static_cast<unsigned>(embedding_num_chunks(op.num_tokens)),
                  num_blocks(columns, threads));
  sum_chunks_kernel<T, kColumns><<<grid, threads, 0, stream>>>(op);
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

int plan_embedding_backward_cuda(const EmbeddingPlanCuda& op, StreamHandle stream) {
  const int64_t T = op.num_tokens;
  if (T == 0) return 0;
  auto* const ids = reinterpret_cast<uint32_t*>(op.sorted_22T);
  cub::DoubleBuffer<uint32_t> keys(ids, ids + T);
  cub::DoubleBuffer<int32_t> values(op.sorted_22T + 2 * T, op.sorted_22T + 3 * T);
  number_tokens_kernel<<<num_blocks(T, kThreads), kThreads, 0, stream>>>(op, keys.Current(),
                                                                         values.Current());
  check_launch("number tokens");
  const int num_bits = std::bit_width(static_cast<uint32_t>(op.num_ids));
  auto scratch_bytes = static_cast<size_t>(embedding_sort_bytes(T));
  check_cuda(cub::DeviceRadixSort::SortPairs(op.sort_scratch, scratch_bytes, keys, values,
                                             static_cast<int>(T), 0, num_bits, stream),
             "sort tokens by id");
  const int64_t num_chunks = embedding_num_chunks(T);
  plan_chunks_kernel<<<num_blocks(num_chunks, kThreads), kThreads, 0, stream>>>(
      op, keys.Current(), static_cast<int>(num_chunks),
      static_cast<int>(embedding_num_column_blocks(op.num_features)));
  check_launch("plan embedding backward");
  return keys.selector;  // and that of `values`
}

void embedding_backward_cuda(const EmbeddingBackwardCuda& op, StreamHandle stream) {
  if (op.num_tokens == 0 || op.num_features == 0) return;
  dispatch_cuda_dtype(op.dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kColumns = kSharedLaneElements<T, float>;
    const bool aligned = op.num_features % kColumns == 0 && is_vector_aligned(op.dy_TE) &&
                         is_vector_aligned(op.dtable_VE) && is_vector_aligned(op.partials_2CE);
    if (aligned) {
      add_rows<T, kColumns>(op, stream);
    } else {
      add_rows<T, 1>(op, stream);
    }
  });
}

}  // namespace longship
