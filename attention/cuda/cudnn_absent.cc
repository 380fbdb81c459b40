// Stands in for attention by cuDNN in a build without CUDA, which has no GPU to call it for.
#include "attention/cuda/cudnn_attention.h"
#include "runtime/error.h"

namespace longship {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorCode::kConfig,
              {.what = "attention on a GPU in a build of Longship that has no CUDA code",
               .next = "build it on a machine with the CUDA toolkit (nvcc), or run on the CPU"});
}

}  // namespace

void CudnnAttention::forward(Context&, const AttentionCall&, const CallForward&) const {
  refuse();
}
void CudnnAttention::backward(Context&, const AttentionCall&, const CallBackward&) const {
  refuse();
}

}  // namespace longship
