// Products of matrices on a GPU, by cuBLASLt.
#pragma once

#include <memory>

#include "runtime/cuda/handles.h"
#include "runtime/device.h"
#include "runtime/matrix.h"

namespace longship {

// d_MN = a_MK b_KN (+ c_MN) (+ bias_N), summed in fp32 and rounded once. a and b are both bf16, or
// both fp32, which is multiplied in full precision (no TF32); d has their dtype, or fp32. No extent
// is 0. Addresses need the alignment of their dtype only.
struct GemmProduct {
  Matrix a_MK = {}, b_KN = {}, d_MN = {};
  // d's dtype and unit stride; may be d itself, and else does not overlap it. data null: nothing.
  Matrix c_MN = {};
  const void* bias_N = nullptr;  // in d's dtype, where d has unit stride along N
  // Filled with the sums of a over K, in d's dtype, where d has unit stride along N. Not with bias.
  void* a_sums_M = nullptr;
};

// The library's handle, and the kernel it chose for every kind of product met so far: the first of
// its heuristic, so that the same products get the same bits in every run.
class Gemm {
 public:
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

  // Throws Error(kConfig) in a build without CUDA.
  explicit Gemm(Device gpu);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // False, with nothing enqueued, if cuBLASLt has no kernel for this. `workspace`: kWorkspaceBytes
  // of the GPU that nothing else uses until the product is done.
  bool enqueue(const GemmProduct& product, void* workspace, StreamHandle stream) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longship
