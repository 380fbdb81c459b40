#include "runtime/ops/linear.h"

#include <algorithm>
#include <array>

#include "runtime/autograd/kept_outputs.h"
#include "runtime/gpu.h"
#include "runtime/ops/column_sums_cuda.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

// sum_O += sum over the rows of dy. A thread owns whole columns and adds rows in order in fp64, so
// the result does not depend on the number of threads.
void add_row_sum(const Context& ctx, const Tensor& dy_TO, const Tensor& sum_O) {
  constexpr int64_t kStrip = 64;
  const int64_t num_rows = dy_TO.dim(0), num_columns = dy_TO.dim(1);
  dispatch_floating(dy_TO.dtype(), [&](auto dy_tag) {
    dispatch_floating(sum_O.dtype(), [&](auto sum_tag) {
      using S = decltype(sum_tag);
      const auto* dy = dy_TO.data<decltype(dy_tag)>();
      S* sum = sum_O.data<S>();
      const int64_t num_strips = (num_columns + kStrip - 1) / kStrip;
      parallel_for(ctx, num_strips, 1, [&](int64_t begin, int64_t end) {
        for (int64_t strip = begin; strip < end; ++strip) {
          const int64_t first = strip * kStrip;
          const int64_t width = std::min(kStrip, num_columns - first);
          std::array<double, kStrip> total{};
          for (int64_t row = 0; row < num_rows; ++row) {
            const auto* values = dy + row * num_columns + first;
            for (int64_t i = 0; i < width; ++i) total[i] += static_cast<double>(values[i]);
          }
          for (int64_t i = 0; i < width; ++i) {
            const double value = static_cast<double>(sum[first + i]) + total[i];
            sum[first + i] = static_cast<S>(static_cast<Accumulator<S>>(value));
          }
        }
      });
    });
  });
}

// The same on a GPU, in fp32.
Tensor row_sum_cuda(const Context& ctx, const Tensor& dy_TO) {
  const int64_t T = dy_TO.dim(0), O = dy_TO.dim(1);
  const Tensor sum_O = ctx.empty({O}, DType::kF32);
  const Tensor partials_BO = ctx.empty({column_sums_num_partials(T, O), O}, DType::kF32);
  if (dy_TO.has_elements())
    column_sums_cuda({.dtype = dy_TO.dtype(),
                      .num_rows = T,
                      .num_columns = O,
                      .x_RC = dy_TO.address(),
                      .partials_BC = partials_BO.device_data<float>(),
                      .sums_C = sum_O.device_data<float>()},
                     compute_stream(ctx));
  return sum_O;
}

// gradient += a b. Returns whether `sums_M`, if defined, was filled with the sums of a over K.
bool add_product(Context& ctx, Gradient& gradient, const Tensor& a_MK, const Tensor& b_KN,
                 const Tensor& sums_M = {}) {
  const Gradient::Update update = gradient.begin_update(ctx);
  if (sums_M.defined())
    return matmul_with_row_sums(ctx, a_MK, b_KN, update.before, update.after, sums_M);
  matmul_add(ctx, a_MK, b_KN, {{}, update.before}, update.after);
  return false;
}

// Inputs: x, w, bias, residual.
struct LinearNode final : Node {
  struct Saved {
    Tensor x_TI, w_OI;
  } saved;

  const char* name() const override { return "linear"; }

  void backward(Context& ctx) override {
    const Tensor dy_TO = grad_output(ctx).contiguous();
    if (input(0)) add_product(ctx, *input(0), dy_TO, saved.w_OI);
    if (dy_TO.device().kind == DeviceKind::kCuda) {
      add_parameter_gradients_cuda(ctx, dy_TO);
    } else {
      if (input(1)) add_product(ctx, *input(1), dy_TO.transpose(0, 1), saved.x_TI);
      if (input(2)) add_row_sum(ctx, dy_TO, input(2)->accumulate_into(ctx));
    }
    if (input(3)) input(3)->add(ctx, dy_TO);
  }

  void visit_saved(const SavedVisitor& visit) override {
    if (saved.x_TI.defined()) visit("x_TI", saved.x_TI);
    if (saved.w_OI.defined()) visit("w_OI", saved.w_OI);
  }

 private:
  // The bias gradient comes from the product for that of w where cuBLASLt can, without a pass over
  // dy of its own.
  void add_parameter_gradients_cuda(Context& ctx, const Tensor& dy_TO) {
    Tensor dbias_O;
    if (input(1)) {
      if (input(2) && input(1)->dtype() == DType::kF32)
        dbias_O = ctx.empty(input(2)->shape(), DType::kF32);
      if (!add_product(ctx, *input(1), dy_TO.transpose(0, 1), saved.x_TI, dbias_O)) dbias_O = {};
    }
    if (input(2)) input(2)->add(ctx, dbias_O.defined() ? dbias_O : row_sum_cuda(ctx, dy_TO));
  }
};

Tensor product(const Context& ctx, const Tensor& x_TI, const Tensor& w_OI,
               const MatmulAddends& addends) {
  Tensor y_TO = ctx.empty({x_TI.dim(0), w_OI.dim(0)}, x_TI.dtype());
  matmul_add(ctx, x_TI, w_OI.transpose(0, 1), addends, y_TO);
  return y_TO;
}

}  // namespace

Variable linear(Context& ctx, const Variable& x_TI, const Variable& w_OI, const Variable& bias_O) {
  return linear_add(ctx, {}, x_TI, w_OI, bias_O);
}

Variable linear_add(Context& ctx, const Variable& residual_TO, const Variable& x_TI,
                    const Variable& w_OI, const Variable& bias_O) {
  LONGSHIP_CHECK(x_TI.value().rank() == 2 && w_OI.value().rank() == 2, "linear of {} by {}",
                 shape_string(x_TI.shape()), shape_string(w_OI.shape()));
  Tensor y_TO = computed_once(ctx, KeptOp::kMatmul, [&] {
    return std::vector{
        product(ctx, x_TI.value(), w_OI.value(), {bias_O.value(), residual_TO.value()})};
  })[0];
  std::unique_ptr<LinearNode> node;
  if (is_recording(ctx, {&x_TI, &w_OI, &bias_O, &residual_TO})) {
    node = std::make_unique<LinearNode>();
    // x serves the gradient of w, and w that of x.
    if (w_OI.requires_grad()) node->saved.x_TI = x_TI.value();
    if (x_TI.requires_grad()) node->saved.w_OI = w_OI.value();
  }
  return record(ctx, "linear", std::move(y_TO), std::move(node),
                {&x_TI, &w_OI, &bias_O, &residual_TO});
}

}  // namespace longship
