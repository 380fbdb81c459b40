// Stands in for the ops' CUDA code in a build without it. No tensor can lie on a GPU there, so none
// of this is ever reached.
#include "runtime/cuda/no_cuda.h"
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
#include "runtime/ops/scale_in_place_cuda.h"
#include "runtime/ops/sink_logit_cuda.h"
#include "runtime/ops/softmax_delta_cuda.h"
#include "runtime/ops/weighted_sum_cuda.h"

namespace longship {

void add_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse_without_cuda("add");
}
void scale_cuda(const ElementwiseCuda&, float, StreamHandle) {
  refuse_without_cuda("scale");
}
void silu_forward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse_without_cuda("silu");
}
void silu_backward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse_without_cuda("silu");
}
void sigmoid_gate_forward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse_without_cuda("sigmoid_gate");
}
void sigmoid_gate_backward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse_without_cuda("sigmoid_gate");
}
void swiglu_forward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse_without_cuda("swiglu");
}
void swiglu_backward_cuda(const ElementwiseCuda&, StreamHandle) {
  refuse_without_cuda("swiglu");
}
void embedding_forward_cuda(const EmbeddingForwardCuda&, StreamHandle) {
  refuse_without_cuda("embedding");
}
int plan_embedding_backward_cuda(const EmbeddingPlanCuda&, StreamHandle) {
  refuse_without_cuda("embedding");
}
void embedding_backward_cuda(const EmbeddingBackwardCuda&, StreamHandle) {
  refuse_without_cuda("embedding");
}
void non_finite_cuda(const NonFiniteCuda&, StreamHandle) {
  refuse_without_cuda("check_finite");
}

void column_sums_cuda(const ColumnSumsCuda&, StreamHandle) {
  refuse_without_cuda("column_sums");
}
void cross_entropy_rows_cuda(const CrossEntropyRowsCuda&, StreamHandle) {
  refuse_without_cuda("linear_cross_entropy");
}
void weighted_sum_cuda(const WeightedSumCuda&, StreamHandle) {
  refuse_without_cuda("linear_cross_entropy");
}
void scale_in_place_cuda(const ScaleInPlaceCuda&, StreamHandle) {
  refuse_without_cuda("linear_cross_entropy");
}
void rms_norm_forward_cuda(const RmsNormForwardCuda&, StreamHandle) {
  refuse_without_cuda("rms_norm");
}
void rms_norm_backward_cuda(const RmsNormBackwardCuda&, StreamHandle) {
  refuse_without_cuda("rms_norm");
}
void accumulate_cuda(const AccumulateCuda&, StreamHandle) {
  refuse_without_cuda("accumulate");
}
void fill_cuda(const FillCuda&, StreamHandle) {
  refuse_without_cuda("fill");
}
void merge_partials_cuda(const MergePartialsCuda&, StreamHandle) {
  refuse_without_cuda("merge_partials");
}
void softmax_delta_cuda(const SoftmaxDeltaCuda&, StreamHandle) {
  refuse_without_cuda("softmax_delta");
}
void add_sink_logit_cuda(const AddSinkLogitCuda&, StreamHandle) {
  refuse_without_cuda("add_sink_logit");
}
void sink_logit_gradient_cuda(const SinkLogitGradientCuda&, StreamHandle) {
  refuse_without_cuda("sink_logit_gradient");
}
void rope_angles_cuda(const RopeAnglesCuda&, StreamHandle) {
  refuse_without_cuda("rope_angles");
}
void rope_cuda(const RopeCuda&, StreamHandle) {
  refuse_without_cuda("rope");
}

}  // namespace longship
