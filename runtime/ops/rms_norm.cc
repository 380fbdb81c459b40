// R rows (tokens, or tokens x heads), D normed features.
#include "runtime/ops/rms_norm.h"

#include <cmath>

#include "runtime/interleaved_sum.h"
#include "runtime/ops/column_sums.h"
#include "runtime/ops/for_each_row.h"

namespace longship {
namespace {

int64_t num_rows(const Tensor& x) {
  return x.numel() / x.dim(-1);
}

// dx = rstd * (w dy - xhat * mean(w dy xhat)),  xhat = x rstd,  w = weight + shift
template <class T, class A>
void input_gradient(int64_t D, const T* x, const T* weight, A shift, const T* dy, A rstd, T* dx) {
  const A dot = interleaved_sum<A>(D, [&](int64_t d) {
    return static_cast<A>(dy[d]) * (static_cast<A>(weight[d]) + shift) * static_cast<A>(x[d]);
  });
  const A c = dot * rstd * rstd / static_cast<A>(D);
#pragma GCC ivdep
  for (int64_t d = 0; d < D; ++d)
    dx[d] = static_cast<T>(rstd * (static_cast<A>(dy[d]) * (static_cast<A>(weight[d]) + shift) -
                                   c * static_cast<A>(x[d])));
}

// dweight += dy xhat
template <class T, class A>
void add_weight_gradient(int64_t D, const T* x, const T* dy, A rstd, A* dweight) {
#pragma GCC ivdep
  for (int64_t d = 0; d < D; ++d)
    dweight[d] += static_cast<A>(dy[d]) * (static_cast<A>(x[d]) * rstd);
}

struct RmsNormNode final : Node {
  struct Saved {
    Tensor x_RD, weight_D, rstd_R;
  } saved;
  bool zero_centered = false;

  const char* name() const override { return "rms_norm"; }

  void backward(Context& ctx) override {
    const Tensor dy_RD = grad_output(ctx).contiguous();
    dispatch_floating(dy_RD.dtype(), [&](auto tag) { add_gradients<decltype(tag)>(ctx, dy_RD); });
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x_RD", saved.x_RD);
    visit("weight_D", saved.weight_D);
    visit("rstd_R", saved.rstd_R);
  }

 private:
  // Both gradients in one pass over x and dy, which are what limits the speed.
  template <class T>
  void add_gradients(Context& ctx, const Tensor& dy_RD) const {
    using A = Accumulator<T>;
    const int64_t D = dy_RD.dim(-1);
    const Tensor dx_RD = input(0) ? ctx.empty(dy_RD.shape(), dy_RD.dtype()) : Tensor();
    const Tensor dweight_D = column_sums<A>(ctx, num_rows(dy_RD), D, [&](int64_t r, A* dweight) {
      const T* x = saved.x_RD.data<T>() + r * D;
      const T* dy = dy_RD.data<T>() + r * D;
      const A rstd = saved.rstd_R.data<A>()[r];
      if (input(0))
        input_gradient<T, A>(D, x, saved.weight_D.data<T>(), zero_centered ? 1 : 0, dy, rstd,
                             dx_RD.data<T>() + r * D);
      if (input(1)) add_weight_gradient(D, x, dy, rstd, dweight);
    });
    if (input(0)) input(0)->add(ctx, dx_RD);
    if (input(1)) input(1)->add(ctx, dweight_D);
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
  dispatch_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    const T* w = weight_D.data<T>();
    const A shift = zero_centered ? 1 : 0;
    for_each_row(ctx, x_RD, D, [&](int64_t first) {
      const T* in = x_RD.data<T>() + first;
      T* out = y_RD.data<T>() + first;
      const A square = interleaved_sum<A>(
          D, [&](int64_t d) { return static_cast<A>(in[d]) * static_cast<A>(in[d]); });
      const A rstd = 1 / std::sqrt(square / static_cast<A>(D) + static_cast<A>(eps));
      rstd_R.data<A>()[first / D] = rstd;
#pragma GCC ivdep
      for (int64_t d = 0; d < D; ++d)
        out[d] = static_cast<T>(static_cast<A>(in[d]) * rstd * (static_cast<A>(w[d]) + shift));
    });
  });
  std::unique_ptr<RmsNormNode> node;
  if (is_recording(ctx, {&x, &weight})) {
    node = std::make_unique<RmsNormNode>();
    node->saved = {x_RD, weight_D, rstd_R};
    node->zero_centered = zero_centered;
  }
  return record(ctx, "rms_norm", y_RD, std::move(node), {&x, &weight});
}

}  // namespace longship
