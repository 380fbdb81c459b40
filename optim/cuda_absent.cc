// Stands in for the optimizer's CUDA code in a build without it. No tensor can lie on a GPU there,
// so none of this is ever reached.
#include "optim/adamw_cuda.h"
#include "optim/gradient_norm_cuda.h"
#include "runtime/cuda/no_cuda.h"

namespace longship {

void adamw_cuda(const AdamWCuda&, StreamHandle) {
  refuse_without_cuda("AdamW");
}
void sum_chunk_squares_cuda(const GradientEntry*, int64_t, int64_t, double*, StreamHandle) {
  refuse_without_cuda("gradient norm");
}
void add_chunk_squares_cuda(const double*, int64_t, double*, StreamHandle) {
  refuse_without_cuda("gradient norm");
}

}  // namespace longship
