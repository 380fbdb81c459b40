// R rows (tokens, or tokens x heads), D normed features, B partial sums.
#include "runtime/ops/rms_norm.h"

#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
#include "runtime/ops/rms_norm_cpu.h"
#include "runtime/ops/rms_norm_cuda.h"

namespace longship {
namespace {

int64_t num_rows(const Tensor& x) {
  return x.numel() / x.dim(-1);
}

void forward_cuda(const Context& ctx, const RmsNormForward& op) {
  rms_norm_forward_cuda({.dtype = op.x_RD.dtype(),
                         .num_rows = num_rows(op.x_RD),
                         .num_features = op.x_RD.dim(-1),
                         .eps = static_cast<float>(op.eps),
                         .shift = op.zero_centered ? 1.0f : 0.0f,
                         .x_RD = op.x_RD.address(),
                         .weight_D = op.weight_D.address(),
                         .y_RD = op.y_RD.address(),
                         .rstd_R = op.rstd_R.device_data<float>()},
                        compute_stream(ctx));
}

struct RmsNormNode final : Node {
  struct Saved {
    Tensor x_RD, weight_D, rstd_R;
  } saved;
  bool zero_centered = false;

  const char* name() const override { return "rms_norm"; }

  void backward(Context& ctx) override {
    const Tensor dy_RD = grad_output(ctx).contiguous();
    Gradient::Update dx;
    const bool adds_in_pass = input(0) && input(0)->dtype() == dy_RD.dtype();
    if (adds_in_pass) {
      dx = input(0)->begin_update(ctx);
    } else if (input(0)) {
      dx.after = ctx.empty(dy_RD.shape(), dy_RD.dtype());
    }
    const Tensor dweight_D = dy_RD.device().kind == DeviceKind::kCpu
                                 ? backward_cpu(ctx, dy_RD, dx)
                                 : backward_cuda(ctx, dy_RD, dx);
    if (input(0) && !adds_in_pass) input(0)->add(ctx, dx.after);
    if (input(1)) input(1)->add(ctx, dweight_D);
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x_RD", saved.x_RD);
    visit("weight_D", saved.weight_D);
    visit("rstd_R", saved.rstd_R);
  }

 private:
  // Both fill dx.after and return dweight.
  Tensor backward_cpu(const Context& ctx, const Tensor& dy_RD, const Gradient::Update& dx) const {
    return rms_norm_backward_cpu(ctx, {.x_RD = saved.x_RD,
                                       .weight_D = saved.weight_D,
                                       .rstd_R = saved.rstd_R,
                                       .dy_RD = dy_RD,
                                       .dx_RD = dx.after,
                                       .other_RD = dx.before,
                                       .wants_dweight = input(1) != nullptr,
                                       .zero_centered = zero_centered});
  }

  Tensor backward_cuda(const Context& ctx, const Tensor& dy_RD, const Gradient::Update& dx) const {
    const int64_t R = num_rows(dy_RD), D = dy_RD.dim(-1);
    Tensor dweight_D, partials_BD;
    if (input(1)) {
      dweight_D = ctx.empty({D}, DType::kF32);
      partials_BD = ctx.empty({rms_norm_num_partials(dy_RD.dtype(), R, D), D}, DType::kF32);
    }
    if (!dy_RD.has_elements()) return dweight_D;
    rms_norm_backward_cuda({.dtype = dy_RD.dtype(),
                            .shift = zero_centered ? 1.0f : 0.0f,
                            .num_rows = R,
                            .num_features = D,
                            .x_RD = saved.x_RD.address(),
                            .weight_D = saved.weight_D.address(),
                            .rstd_R = saved.rstd_R.device_data<float>(),
                            .dy_RD = dy_RD.address(),
                            .other_RD = dx.before.defined() ? dx.before.address() : nullptr,
                            .dx_RD = dx.after.defined() ? dx.after.address() : nullptr,
                            .dweight_D = input(1) ? dweight_D.device_data<float>() : nullptr,
                            .partials_BD = input(1) ? partials_BD.device_data<float>() : nullptr},
                           compute_stream(ctx));
    return dweight_D;
  }
};

}  // namespace

Variable rms_norm(Context& ctx, const Variable& x, const Variable& weight, double eps,
                  bool zero_centered) {
  const int64_t D = x.dim(-1);
  LONGSHIP_CHECK(D > 0 && weight.shape() == Shape{D} && weight.dtype() == x.dtype(),
                 "rms_norm of {} {} with weight {} {}", dtype_name(x.dtype()),
                 shape_string(x.shape()), dtype_name(weight.dtype()), shape_string(weight.shape()));
  const Tensor x_RD = x.value().contiguous();
  const Tensor weight_D = weight.value().contiguous();
  const Tensor y_RD = ctx.empty(x.shape(), x.dtype());
  const Tensor rstd_R = ctx.empty({num_rows(x_RD)}, accumulator_dtype(x.dtype()));
  require_one_device("rms_norm", {&x_RD, &weight_D, &y_RD});
  const RmsNormForward op{x_RD, weight_D, eps, zero_centered, y_RD, rstd_R};
  dispatch_device(
      y_RD, [&] { rms_norm_forward_cpu(ctx, op); }, [&] { forward_cuda(ctx, op); });
  std::unique_ptr<RmsNormNode> node;
  if (is_recording(ctx, {&x, &weight})) {
    node = std::make_unique<RmsNormNode>();
    node->saved = {x_RD, weight_D, rstd_R};
    node->zero_centered = zero_centered;
  }
  return record(ctx, "rms_norm", y_RD, std::move(node), {&x, &weight});
}

}  // namespace longship
