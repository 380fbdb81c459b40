// Softmax attention on a GPU by cuDNN: fused kernels that never store the scores (FlashAttention-2,
// Dao 2023, arXiv 2307.08691).
#pragma once

#include "attention/cuda/call_kernel.h"

namespace longship {

struct CudnnAttentionOptions {
  // The backward gives the same bits again. cuDNN then stores the scores of as many heads as fit
  // into score_bytes, at least those of one key/value head: H / K * q_length * k_length * 2 bytes.
  bool deterministic = false;
  int64_t score_bytes = int64_t{2} << 30;
};

// Implements CallKernel for bf16 tensors on a GPU and the sizes of require_gpu_attention(); lse is
// fp32. Work is enqueued on ctx.gpu->compute, and its workspace comes from ctx.memory: for the
// backward 4 H D bytes per query row and, where K < H, 2 to 4 H (D + V) per key row.
//
// Graphs, and tables of where entries lie, are kept with the GPU for all objects of this class; in
// the calls of a step that equals an earlier one, nothing is built or uploaded. One thread at a
// time. Throws Error(kConfig) for sizes that are not supported, Error(kInternal) for tensors that
// do not fit together and entries outside of them.
class CudnnAttention final : public CallKernel {
 public:
  explicit CudnnAttention(const CudnnAttentionOptions& options = {}) : options_(options) {}

  void forward(Context& ctx, const AttentionCall& call, const CallForward& op) const override;
  void backward(Context& ctx, const AttentionCall& call, const CallBackward& op) const override;

 private:
  CudnnAttentionOptions options_;
};

}  // namespace longship
