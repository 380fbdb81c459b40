// Stands in for attention by cuDNN in a build without CUDA, which has no GPU to call it for.
#include "attention/cuda/cudnn_attention.h"
#include "runtime/cuda/no_cuda.h"

namespace longship {

void CudnnAttention::forward(Context&, const AttentionCall&, const CallForward&) const {
  refuse_without_cuda("attention");
}
void CudnnAttention::backward(Context&, const AttentionCall&, const CallBackward&) const {
  refuse_without_cuda("attention");
}

}  // namespace longship
