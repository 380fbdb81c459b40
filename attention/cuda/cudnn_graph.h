// Scaled dot-product attention as graphs of cuDNN, made by cudnn-frontend, which takes minutes to
// compile and is included by this source file alone.
//
// Rows are tokens: H query heads of D (o: of V) elements, or K key/value heads of D and V.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>

#include "runtime/cuda/handles.h"

struct cudnnContext;

namespace longship {

// What a graph is made for. Its tensors are bf16, and lse fp32.
struct CudnnGraphKey {
  bool backward = false;
  bool deterministic = false;  // of the backward, with room for all scores
  // Ragged: `batch` entries of at most max_q and max_k rows, each with lengths and offsets of its
  // own, lse by tokens [T, H]. Else one entry of max_q and max_k rows; the backward then reads lse
  // by heads [H, T].
  bool ragged = false;
  int64_t batch = 1, max_q = 0, max_k = 0;
  int64_t total_q = 0, total_k = 0;  // ragged: offsets plus lengths are no larger
  int64_t num_heads = 0, num_kv_heads = 0;
  int64_t row_heads = 0, row_kv_heads = 0;  // of the tensors, if only some heads are computed
  int64_t head_size = 0, value_size = 0;
  bool bottom_right = false;
  int64_t left = kNoBound, right = kNoBound;
  float scale = 1;

  static constexpr int64_t kNoBound = -1;

  auto operator<=>(const CudnnGraphKey&) const = default;
};

// In GPU memory. Offsets are counted in elements from the pointers, batch + 1 of each.
struct CudnnRagged {
  const int64_t *q_offsets = nullptr, *k_offsets = nullptr, *v_offsets = nullptr;
  const int64_t *o_offsets = nullptr, *lse_offsets = nullptr;
  const int32_t *q_lengths = nullptr, *k_lengths = nullptr;
};

struct CudnnPointers {
  void *q = nullptr, *k = nullptr, *v = nullptr, *o = nullptr, *lse = nullptr;
  void *d_o = nullptr, *dq = nullptr, *dk = nullptr, *dv = nullptr;
  CudnnRagged ragged;
};

// A connection to cuDNN whose work goes to one stream.
class CudnnHandle {
 public:
  // Throws Error(kConfig) if cuDNN cannot start or is older than 9.18.
  explicit CudnnHandle(StreamHandle stream);
  ~CudnnHandle();
  CudnnHandle(const CudnnHandle&) = delete;
  CudnnHandle& operator=(const CudnnHandle&) = delete;

  StreamHandle stream() const { return stream_; }
  cudnnContext* get() const { return handle_; }

 private:
  StreamHandle stream_;
  cudnnContext* handle_ = nullptr;
};

class CudnnGraph {
 public:
  // Takes 40 ms, and a second for the first of its kind. Throws Error(kConfig) with cuDNN's words
  // if it has no kernel for `key`.
  CudnnGraph(const CudnnHandle& handle, const CudnnGraphKey& key);
  ~CudnnGraph();
  CudnnGraph(CudnnGraph&&) noexcept;
  CudnnGraph& operator=(CudnnGraph&&) noexcept;

  int64_t workspace_bytes() const;
  // Enqueues it; allocates nothing and does not wait.
  void execute(const CudnnHandle& handle, const CudnnPointers& pointers, void* workspace) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longship
