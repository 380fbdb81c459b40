#include "runtime/ops/linear_cross_entropy.h"

#include "runtime/device_dispatch.h"
#include "runtime/ops/linear_cross_entropy_cpu.h"
#include "runtime/ops/linear_cross_entropy_cuda.h"

namespace longship {
namespace {

void check_inputs(const Tensor& h_TE, const Tensor& head_VE, const Tensor& targets_T,
                  int64_t chunk_tokens) {
  LONGSHIP_CHECK(h_TE.rank() == 2 && head_VE.rank() == 2 && h_TE.dim(1) == head_VE.dim(1) &&
                     h_TE.dtype() == head_VE.dtype(),
                 "hidden states {} and head {}", shape_string(h_TE.shape()),
                 shape_string(head_VE.shape()));
  LONGSHIP_CHECK(targets_T.shape() == Shape{h_TE.dim(0)} && targets_T.is_contiguous(),
                 "targets of shape {} for hidden states {}", shape_string(targets_T.shape()),
                 shape_string(h_TE.shape()));
  LONGSHIP_CHECK(chunk_tokens > 0, "chunks of {} tokens", chunk_tokens);
  require_one_device("linear_cross_entropy", {&h_TE, &head_VE, &targets_T});
}

bool is_on_gpu(const Tensor& tensor) {
  return tensor.device().kind == DeviceKind::kCuda;
}

struct LinearCrossEntropyNode final : Node {
  LossGradients saved;

  const char* name() const override { return "linear_cross_entropy"; }

  void backward(Context& ctx) override {
    const Tensor dloss = grad_output(ctx);
    for (size_t i = 0; i < 2; ++i) {
      Tensor& gradient = i == 0 ? saved.dh_TE : saved.dhead_VE;
      if (!gradient.defined()) continue;
      is_on_gpu(gradient) ? scale_gradient_cuda(ctx, gradient, dloss)
                          : scale_gradient_cpu(ctx, gradient, dloss);
      input(i)->add(ctx, std::move(gradient));
    }
  }

  void visit_saved(const SavedVisitor& visit) override {
    if (saved.dh_TE.defined()) visit("dh_TE", saved.dh_TE);
    if (saved.dhead_VE.defined()) visit("dhead_VE", saved.dhead_VE);
  }
};

}  // namespace

Variable linear_cross_entropy(Context& ctx, const Variable& h_TE, const Variable& head_VE,
                              const Tensor& targets_T, const Tensor& weights_T,
                              int64_t chunk_tokens) {
  check_inputs(h_TE.value(), head_VE.value(), targets_T, chunk_tokens);
  LONGSHIP_CHECK(weights_T.shape() == targets_T.shape() && weights_T.is_contiguous(),
                 "loss weights of shape {} for targets of shape {}",
                 shape_string(weights_T.shape()), shape_string(targets_T.shape()));
  require_one_device("linear_cross_entropy", {&targets_T, &weights_T});
  std::unique_ptr<LinearCrossEntropyNode> node;
  LossGradients gradients;
  if (is_recording(ctx, {&h_TE, &head_VE})) {
    node = std::make_unique<LinearCrossEntropyNode>();
    if (h_TE.requires_grad()) gradients.dh_TE = ctx.empty(h_TE.shape(), h_TE.dtype());
    if (head_VE.requires_grad())
      gradients.dhead_VE = ctx.empty(head_VE.shape(), accumulator_dtype(head_VE.dtype()));
    node->saved = gradients;
  }
  const LinearCrossEntropy op{h_TE.value().contiguous(), head_VE.value(), targets_T, weights_T,
                              chunk_tokens};
  Tensor loss = is_on_gpu(op.h_TE) ? linear_cross_entropy_cuda(ctx, op, gradients)
                                   : linear_cross_entropy_cpu(ctx, op, gradients);
  gradients = {};
  return record(ctx, "linear_cross_entropy", std::move(loss), std::move(node), {&h_TE, &head_VE});
}

Tensor token_cross_entropy(Context& ctx, const Tensor& h_TE, const Tensor& head_VE,
                           const Tensor& targets_T, int64_t chunk_tokens) {
  check_inputs(h_TE, head_VE, targets_T, chunk_tokens);
  const LinearCrossEntropy op{h_TE.contiguous(), head_VE, targets_T, {}, chunk_tokens};
  return is_on_gpu(op.h_TE) ? token_cross_entropy_cuda(ctx, op) : token_cross_entropy_cpu(ctx, op);
}

}  // namespace longship
