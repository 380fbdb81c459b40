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

// Tokens are sorted by id, and cut into chunks. A run of one id is summed in the order of its
// tokens, in fp32: chunk by chunk, then over its chunks. So no atomics are needed, and an id that
// many tokens share is the work of many blocks. An id outside [0, V) adds nothing.
struct EmbeddingBackwardCuda {
  DType dtype = DType::kF32;  // of dy: fp32 or bf16
  int64_t num_ids = 0;
  int64_t num_tokens = 0;  // below 2^31
  int64_t num_features = 0;
  const int32_t* ids_T = nullptr;
  const void* dy_TE = nullptr;
  float* dtable_VE = nullptr;  // added to
  // Scratch.
  int32_t* sorted_4T = nullptr;   // ids and tokens, twice
  float* partials_2CE = nullptr;  // with C = embedding_num_chunks()
  void* sort_scratch = nullptr;   // of embedding_sort_bytes()
};
void embedding_backward_cuda(const EmbeddingBackwardCuda& op, StreamHandle stream);

inline constexpr int kEmbeddingChunkTokens = 32;

inline int64_t embedding_num_chunks(int64_t num_tokens) {
  return (num_tokens + kEmbeddingChunkTokens - 1) / kEmbeddingChunkTokens;
}

// At least what CUB's radix sort asks for, which it tells only where there is a GPU: 1 KiB for each
// of its blocks, of some thousand tokens, and a few KiB. (It checks what it is given.)
inline int64_t embedding_sort_bytes(int64_t num_tokens) {
  return num_tokens + (1 << 16);
}

}  // namespace longship
