// Stands in for the ops' CUDA code in a build without it. No tensor can lie on a GPU there, so none
// of this is ever reached.
#include "runtime/error.h"
#include "runtime/ops/rms_norm_cuda.h"

namespace longship {
namespace {

[[noreturn]] void refuse(std::string_view op) {
  throw Error(ErrorCode::kConfig,
              {.what = fmt::format("{} on a GPU: this build of Longship has no CUDA code", op),
               .next = "build it on a machine with the CUDA toolkit (nvcc), or run on the CPU"});
}

}  // namespace

void rms_norm_forward_cuda(const RmsNormForwardCuda&, StreamHandle) {
  refuse("rms_norm");
}
void rms_norm_backward_cuda(const RmsNormBackwardCuda&, StreamHandle) {
  refuse("rms_norm");
}

}  // namespace longship
