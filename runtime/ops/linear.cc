#include "runtime/ops/linear.h"

#include <algorithm>
#include <array>

#include "runtime/autograd/kept_outputs.h"
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

struct LinearNode final : Node {
  struct Saved {
    Tensor x_TI, w_OI;
  } saved;

  const char* name() const override { return "linear"; }

  void backward(Context& ctx) override {
    const Tensor dy_TO = grad_output(ctx);
    if (input(0)) {
      Tensor dx_TI = ctx.empty(input(0)->shape(), dy_TO.dtype());
      matmul(ctx, dy_TO, saved.w_OI, dx_TI);
      input(0)->add(ctx, std::move(dx_TI));
    }
    if (input(1)) {
      const Tensor dy_OT = dy_TO.transpose(0, 1);
      if (input(1)->defined()) {
        matmul(ctx, dy_OT, saved.x_TI, input(1)->accumulate_into(ctx), true);
      } else {
        Tensor dw_OI = ctx.empty(input(1)->shape(), input(1)->dtype());
        matmul(ctx, dy_OT, saved.x_TI, dw_OI);
        input(1)->add(ctx, std::move(dw_OI));
      }
    }
    if (input(2)) add_row_sum(ctx, dy_TO, input(2)->accumulate_into(ctx));
  }

  void visit_saved(const SavedVisitor& visit) override {
    if (saved.x_TI.defined()) visit("x_TI", saved.x_TI);
    if (saved.w_OI.defined()) visit("w_OI", saved.w_OI);
  }
};

}  // namespace

Variable linear(Context& ctx, const Variable& x_TI, const Variable& w_OI, const Variable& bias_O) {
  LONGSHIP_CHECK(x_TI.value().rank() == 2 && w_OI.value().rank() == 2, "linear of {} by {}",
                 shape_string(x_TI.shape()), shape_string(w_OI.shape()));
  const Tensor y_TO = computed_once(ctx, KeptOp::kMatmul, [&] {
    const Tensor product_TO = ctx.empty({x_TI.dim(0), w_OI.dim(0)}, x_TI.dtype());
    const Tensor w_IO = w_OI.value().transpose(0, 1);
    if (bias_O.defined()) {
      matmul_bias(ctx, x_TI.value(), w_IO, bias_O.value(), product_TO);
    } else {
      matmul(ctx, x_TI.value(), w_IO, product_TO);
    }
    return std::vector{product_TO};
  })[0];
  std::unique_ptr<LinearNode> node;
  if (is_recording(ctx, {&x_TI, &w_OI, &bias_O})) {
    node = std::make_unique<LinearNode>();
    // x serves the gradient of w, and w that of x.
    if (w_OI.requires_grad()) node->saved.x_TI = x_TI.value();
    if (x_TI.requires_grad()) node->saved.w_OI = w_OI.value();
  }
  return record(ctx, "linear", y_TO, std::move(node), {&x_TI, &w_OI, &bias_O});
}

}  // namespace longship
