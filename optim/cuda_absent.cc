// Stands in for the optimizer's CUDA code in a build without it. No tensor can lie on a GPU there,
// so none of this is ever reached.
#include "optim/adamw_cuda.h"
#include "optim/gradient_norm_cuda.h"
#include "runtime/error.h"

namespace longship {
namespace {

[[noreturn]] void refuse(std::string_view op) {
  throw Error(ErrorCode::kConfig,
              {.what = fmt::format("{} on a GPU: this build of Longship has no CUDA code", op),
               .next = "build it on a machine with the CUDA toolkit (nvcc), or run on the CPU"});
}

}  // namespace

void adamw_cuda(const AdamWCuda&, StreamHandle) {
  refuse("AdamW");
}
void sum_chunk_squares_cuda(const GradientEntry*, int64_t, int64_t, double*, StreamHandle) {
  refuse("gradient norm");
}
void add_chunk_squares_cuda(const double*, int64_t, double*, StreamHandle) {
  refuse("gradient norm");
}

}  // namespace longship
