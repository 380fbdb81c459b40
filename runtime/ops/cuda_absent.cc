// Stands in for the ops' CUDA code in a build without it. No tensor can lie on a GPU there, so none
// of this is ever reached.
#include "runtime/error.h"
#include "runtime/ops/accumulate_cuda.h"
#include "runtime/ops/column_sums_cuda.h"
#include "runtime/ops/cross_entropy_rows_cuda.h"
#include "runtime/ops/elementwise_cuda.h"
#include "runtime/ops/embedding_cuda.h"
#include "runtime/ops/fill_cuda.h"
#include "runtime/ops/merge_partials_cuda.h"
#include "runtime/ops/non_finite_cuda.h"
#include "runtime/ops/rms_norm_cuda.h"
#include "runtime/ops/rope_cuda.h"
#include "runtime/ops/sink_logit_cuda.h"
#include "runtime/ops/softmax_delta_cuda.h"

namespace longship {
namespace {

[[noreturn]] void refuse(std::string_view op) {
  throw Error(ErrorCode::kConfig,
              {.what = fmt::format("{} on a GPU: this build of Longship has no CUDA code", op),
               .next = "build it on a machine with the CUDA toolkit (nvcc), or run on the CPU"});
}

}  // namespace

void add_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse("add");
}
void scale_cuda(const ElementwiseCuda&, float, StreamHandle) {
  refuse("scale");
}
void silu_forward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse("silu");
}
void silu_backward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse("silu");
}
void sigmoid_gate_forward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse("sigmoid_gate");
}
void sigmoid_gate_backward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse("sigmoid_gate");
}
void swiglu_forward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse("swiglu");
}
void swiglu_backward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse("swiglu");
}
void embedding_forward_cuda(const EmbeddingForwardCuda&, StreamHandle) {
  refuse("embedding");
}
void embedding_backward_cuda(const EmbeddingBackwardCuda&, StreamHandle) {
  refuse("embedding");
}
void non_finite_cuda(const NonFiniteCuda&, StreamHandle) {
  refuse("check_finite");
}

void column_sums_cuda(const ColumnSumsCuda&, StreamHandle) {
  refuse("column_sums");
}
void cross_entropy_rows_cuda(const CrossEntropyRowsCuda&, StreamHandle) {
  refuse("linear_cross_entropy");
}
void weighted_sum_cuda(const WeightedSumCuda&, StreamHandle) {
  refuse("linear_cross_entropy");
}
void scale_in_place_cuda(const ScaleInPlaceCuda&, StreamHandle) {
  refuse("linear_cross_entropy");
}
void rms_norm_forward_cuda(const RmsNormForwardCuda&, StreamHandle) {
  refuse("rms_norm");
}
void rms_norm_backward_cuda(const RmsNormBackwardCuda&, StreamHandle) {
  refuse("rms_norm");
}
void accumulate_cuda(const AccumulateCuda&, StreamHandle) {
  refuse("accumulate");
}
void fill_cuda(const FillCuda&, StreamHandle) {
  refuse("fill");
}
void merge_partials_cuda(const MergePartialsCuda&, StreamHandle) {
  refuse("merge_partials");
}
void softmax_delta_cuda(const SoftmaxDeltaCuda&, StreamHandle) {
  refuse("softmax_delta");
}
void add_sink_logit_cuda(const AddSinkLogitCuda&, StreamHandle) {
  refuse("add_sink_logit");
}
void sink_logit_gradient_cuda(const SinkLogitGradientCuda&, StreamHandle) {
  refuse("sink_logit_gradient");
}
void rope_angles_cuda(const RopeAnglesCuda&, StreamHandle) {
  refuse("rope_angles");
}
void rope_cuda(const RopeCuda&, StreamHandle) {
  refuse("rope");
}

}  // namespace longship
