// Parts of rows on their way from global to shared memory before a kernel works on them, so that it
// needs neither registers nor many threads to keep memory busy.
#pragma once

#include <cuda_pipeline.h>

#include <cstddef>

#include "runtime/cuda/vector16.cuh"

namespace longship {

// Of each of kTensors rows a thread loads kVectors vectors, and with them a number that all threads
// of the row share, into one of two stages. It reads only what it has loaded itself: no barrier is
// needed. The kernel
//   loads its first row into stage 0 and calls commit();
//   in every round loads the next row into the other stage, calls commit() and wait(), and reads.
// More stages make kernels of two or three tensors slower, not faster.
template <class T, int kTensors, int kVectors>
class RowPrefetch {
 public:
  // Of dynamic shared memory for a block.
  static constexpr size_t bytes(int block_threads) {
    return (kSlots * sizeof(uint4) + 2 * sizeof(float)) * block_threads;
  }

  // `memory` of bytes(). A thread has the vectors lane, lane + threads_per_row, ... of the `length`
  // elements of a row; those beyond them are zeros.
  __device__ RowPrefetch(uint4* memory, int length, int lane, int threads_per_row)
      : slots_(memory + threadIdx.x),
        numbers_(reinterpret_cast<float*>(memory + kSlots * blockDim.x) + threadIdx.x),
        stride_(threads_per_row * Vector16<T>::kSize) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      exists_[i] = lane * Vector16<T>::kSize + i * stride_ < length;
      if (exists_[i]) continue;
#pragma unroll
      for (int t = 0; t < kTensors; ++t) *slot(0, t, i) = *slot(1, t, i) = {0, 0, 0, 0};
    }
  }

  // `first`: the first of this thread's elements of the row.
  __device__ void load(int stage, int tensor, const T* first) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      if (exists_[i])
        __pipeline_memcpy_async(slot(stage, tensor, i), first + i * stride_, sizeof(uint4));
  }
  __device__ void load_number(int stage, const float* number) {
    __pipeline_memcpy_async(numbers_ + stage * blockDim.x, number, sizeof(float));
  }
  __device__ void commit() {
    __pipeline_commit();
  }
  // Until all but the last commit is there.
  __device__ void wait() {
    __pipeline_wait_prior(1);
  }

  __device__ Vector16<T> vector(int stage, int tensor, int i) const {
    return {*slot(stage, tensor, i)};
  }
  __device__ float number(int stage) const {
    return numbers_[stage * blockDim.x];
  }
  __device__ bool exists(int i) const {
    return exists_[i];
  }
  // From the first of this thread's elements of a row to those of vector i.
  __device__ int offset(int i) const {
    return i * stride_;
  }

 private:
  static constexpr int kSlots = 2 * kTensors * kVectors;  // of a thread

  // Neighbouring threads have neighbouring slots: copies to scattered ones take many times longer.
  __device__ uint4* slot(int stage, int tensor, int i) const {
    return slots_ + ((stage * kTensors + tensor) * kVectors + i) * blockDim.x;
  }

  uint4* slots_;
  float* numbers_;
  int stride_;  // between vectors, in elements
  bool exists_[kVectors];
};

}  // namespace longship
