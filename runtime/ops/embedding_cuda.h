// The embedding on a GPU: what the kernels of embedding_cuda.cu are given. V rows of the table, T
// tokens, E features; packed arrays.
#pragma once

#include <cstdint>

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct EmbeddingForwardCuda {
  DType dtype = DType::kF32;  // of table and y: fp32 or bf16
  int64_t num_ids = 0;
  int64_t num_tokens = 0;
  int64_t num_features = 0;
  const int32_t* ids_T = nullptr;
  const void* table_VE = nullptr;
  void* y_TE = nullptr;
};
// The row of an id outside [0, V) becomes NaN.
void embedding_forward_cuda(const EmbeddingForwardCuda& op, StreamHandle stream);

// The backward goes through the tokens in the order of their ids (and under one id in their own),
// cut into C chunks. A run of one id is summed in the order of its tokens, in fp32; where it is
// longer than a chunk, chunk by chunk, then over its chunks by the block that is done last. So an
// id that many tokens share is the work of many blocks, and sums have the same bits in every run.
// An id outside [0, V) adds nothing.

// What is summed with one chunk: the sorted tokens [begin, end). A run of no more tokens than a
// chunk has is summed whole where it begins, a longer one is cut between chunks.
struct alignas(16) EmbeddingChunk {
  int32_t begin = 0, end = 0;
  int32_t first_chunk = -1;  // of a cut run that began before; -1: none
  int32_t last_chunk = -1;   // of a cut run that begins here; -1: none
};

inline constexpr int kEmbeddingChunkTokens = 32;
inline int64_t embedding_num_chunks(int64_t num_tokens) {
  return (num_tokens + kEmbeddingChunkTokens - 1) / kEmbeddingChunkTokens;
}
// Blocks of threads that share the columns of a chunk, at most.
inline constexpr int kEmbeddingBlockThreads = 256;
inline int64_t embedding_num_column_blocks(int64_t num_features) {
  return (num_features + kEmbeddingBlockThreads - 1) / kEmbeddingBlockThreads;
}

// What the ids alone decide, for the backward to come.
struct EmbeddingPlanCuda {
  int64_t num_ids = 0;
  int64_t num_tokens = 0;  // up to 2^30
  int64_t num_features = 0;
  const int32_t* ids_T = nullptr;
  int32_t* sorted_22T = nullptr;  // ids and tokens, each in two halves of which one is the result
  void* sort_scratch = nullptr;   // of embedding_sort_bytes()
  EmbeddingChunk* chunks_C = nullptr;
  int32_t* num_done_BC = nullptr;  // with B = embedding_num_column_blocks()
};
// Gives the half of sorted_22T that will hold the result.
int plan_embedding_backward_cuda(const EmbeddingPlanCuda& op, StreamHandle stream);

// At least what CUB's radix sort asks for, which it tells only where there is a GPU: 1 KiB for each
// of its blocks, of some thousand tokens, and a few KiB. (It checks what it is given.)
inline int64_t embedding_sort_bytes(int64_t num_tokens) {
  return num_tokens + (1 << 16);
}

struct EmbeddingBackwardCuda {
  DType dtype = DType::kF32;  // of dy: fp32 or bf16
  int64_t num_tokens = 0;
  int64_t num_features = 0;
  // Of the plan: ids and tokens in their order, and the chunks.
  const int32_t* ids_T = nullptr;
  const int32_t* tokens_T = nullptr;
  const EmbeddingChunk* chunks_C = nullptr;
  int32_t* num_done_BC = nullptr;  // zeros, before and after
  const void* dy_TE = nullptr;
  float* dtable_VE = nullptr;     // added to
  float* partials_2CE = nullptr;  // scratch
};
void embedding_backward_cuda(const EmbeddingBackwardCuda& op, StreamHandle stream);

}  // namespace longship
