// R rows (tokens x heads), D normed features.
#include "runtime/ops/l2_norm.h"

#include <cmath>

#include "runtime/interleaved_sum.h"
#include "runtime/ops/for_each_row.h"

namespace longship {
namespace {

struct L2NormNode final : Node {
  struct Saved {
    Tensor x_RD, rnorm_R;
  } saved;

  const char* name() const override { return "l2_norm"; }

  // With y = x r:  dx = r (dy - y (y . dy)).
  void backward(Context& ctx) override {
    const Tensor dy_RD = grad_output(ctx).contiguous();
    const Tensor dx_RD = ctx.empty(dy_RD.shape(), dy_RD.dtype());
    const int64_t D = dy_RD.dim(-1);
    dispatch_floating(dy_RD.dtype(), [&](auto tag) {
      using T = decltype(tag);
      using A = Accumulator<T>;
      for_each_row(ctx, dy_RD, D, [&](int64_t first) {
        const T* x = saved.x_RD.data<T>() + first;
        const T* dy = dy_RD.data<T>() + first;
        T* dx = dx_RD.data<T>() + first;
        const A r = saved.rnorm_R.data<A>()[first / D];
        const A dot = interleaved_sum<A>(
            D, [&](int64_t d) { return static_cast<A>(x[d]) * r * static_cast<A>(dy[d]); });
        const A c = dot * r;
#pragma GCC ivdep
        for (int64_t d = 0; d < D; ++d)
          dx[d] = static_cast<T>(r * (static_cast<A>(dy[d]) - c * static_cast<A>(x[d])));
      });
    });
    input(0)->add(ctx, dx_RD);
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x_RD", saved.x_RD);
    visit("rnorm_R", saved.rnorm_R);
  }
};

}  // namespace

Variable l2_norm(Context& ctx, const Variable& x, double eps) {
  const int64_t D = x.dim(-1);
  LONGSHIP_CHECK(D > 0, "l2_norm of {}", shape_string(x.shape()));
  const Tensor x_RD = x.value().contiguous();
  const Tensor y_RD = ctx.empty(x.shape(), x.dtype());
  const Tensor rnorm_R = ctx.empty({x_RD.numel() / D}, accumulator_dtype(x.dtype()));
  dispatch_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    for_each_row(ctx, y_RD, D, [&](int64_t first) {
      const T* in = x_RD.data<T>() + first;
      T* out = y_RD.data<T>() + first;
      const A square = interleaved_sum<A>(
          D, [&](int64_t d) { return static_cast<A>(in[d]) * static_cast<A>(in[d]); });
      const A r = 1 / std::sqrt(square + static_cast<A>(eps));
      rnorm_R.data<A>()[first / D] = r;
#pragma GCC ivdep
      for (int64_t d = 0; d < D; ++d) out[d] = static_cast<T>(static_cast<A>(in[d]) * r);
    });
  });
  std::unique_ptr<L2NormNode> node;
  if (is_recording(ctx, {&x})) {
    node = std::make_unique<L2NormNode>();
    node->saved = {x_RD, rnorm_R};
  }
  return record(ctx, "l2_norm", y_RD, std::move(node), {&x});
}

}  // namespace longship
