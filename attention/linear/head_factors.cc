#include "attention/linear/head_factors.h"

#include "runtime/interleaved_sum.h"
#include "runtime/ops/column_sums.h"
#include "runtime/ops/for_each_row.h"

namespace longship {
namespace {

struct SteppedNode final : Node {
  struct Saved {
    Tensor x_THV, dt_TH;
  } saved;

  const char* name() const override { return "stepped"; }

  void backward(Context& ctx) override {
    const Tensor dy_THV = grad_output(ctx).contiguous();
    const Tensor dx_THV = ctx.empty(dy_THV.shape(), dy_THV.dtype());
    const Tensor ddt_TH = ctx.empty(saved.dt_TH.shape(), saved.dt_TH.dtype());
    const int64_t V = dy_THV.dim(2);
    dispatch_floating(dy_THV.dtype(), [&](auto tag) {
      using T = decltype(tag);
      using A = Accumulator<T>;
      for_each_row(ctx, dy_THV, V, [&](int64_t first) {
        const T* x = saved.x_THV.data<T>() + first;
        const T* dy = dy_THV.data<T>() + first;
        T* dx = dx_THV.data<T>() + first;
        const A dt = saved.dt_TH.data<A>()[first / V];
        ddt_TH.data<A>()[first / V] = interleaved_sum<A>(
            V, [&](int64_t v) { return static_cast<A>(x[v]) * static_cast<A>(dy[v]); });
#pragma GCC ivdep
        for (int64_t v = 0; v < V; ++v) dx[v] = static_cast<T>(dt * static_cast<A>(dy[v]));
      });
    });
    if (input(0)) input(0)->add(ctx, dx_THV);
    if (input(1)) input(1)->add(ctx, ddt_TH);
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x_THV", saved.x_THV);
    visit("dt_TH", saved.dt_TH);
  }
};

struct HeadSkipNode final : Node {
  struct Saved {
    Tensor x_THV, d_H;
  } saved;

  const char* name() const override { return "head_skip"; }

  void backward(Context& ctx) override {
    const Tensor dy_THV = grad_output(ctx).contiguous();
    const Tensor dx_THV = ctx.empty(dy_THV.shape(), dy_THV.dtype());
    const int64_t T = dy_THV.dim(0), H = dy_THV.dim(1), V = dy_THV.dim(2);
    Tensor dd_H;
    dispatch_floating(dy_THV.dtype(), [&](auto tag) {
      using E = decltype(tag);
      using A = Accumulator<E>;
      const A* d = saved.d_H.data<A>();
      dd_H = column_sums<A>(ctx, T, H, [&](int64_t t, A* dd) {
        for (int64_t h = 0; h < H; ++h) {
          const E* x = saved.x_THV.data<E>() + (t * H + h) * V;
          const E* dy = dy_THV.data<E>() + (t * H + h) * V;
          E* dx = dx_THV.data<E>() + (t * H + h) * V;
          dd[h] += interleaved_sum<A>(
              V, [&](int64_t v) { return static_cast<A>(x[v]) * static_cast<A>(dy[v]); });
#pragma GCC ivdep
          for (int64_t v = 0; v < V; ++v) dx[v] = static_cast<E>(d[h] * static_cast<A>(dy[v]));
        }
      });
    });
    if (input(0)) input(0)->add(ctx, dy_THV);
    if (input(1)) input(1)->add(ctx, dx_THV);
    if (input(2)) input(2)->add(ctx, dd_H);
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x_THV", saved.x_THV);
    visit("d_H", saved.d_H);
  }
};

}  // namespace

Variable stepped(Context& ctx, const Variable& x_THV, const Variable& dt_TH) {
  const DType sums = accumulator_dtype(x_THV.dtype());
  LONGSHIP_CHECK(x_THV.value().rank() == 3 && dt_TH.shape() == (Shape{x_THV.dim(0), x_THV.dim(1)}),
                 "step sizes {} of {}", shape_string(dt_TH.shape()), shape_string(x_THV.shape()));
  const Tensor x = x_THV.value().contiguous(), dt = dt_TH.value().to(sums).contiguous();
  const Tensor y_THV = ctx.empty(x.shape(), x.dtype());
  const int64_t V = x.dim(2);
  dispatch_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    for_each_row(ctx, y_THV, V, [&](int64_t first) {
      const T* in = x.data<T>() + first;
      T* out = y_THV.data<T>() + first;
      const A step = dt.data<A>()[first / V];
#pragma GCC ivdep
      for (int64_t v = 0; v < V; ++v) out[v] = static_cast<T>(step * static_cast<A>(in[v]));
    });
  });
  std::unique_ptr<SteppedNode> node;
  if (is_recording(ctx, {&x_THV, &dt_TH})) {
    node = std::make_unique<SteppedNode>();
    node->saved = {x, dt};
  }
  return record(ctx, "stepped", y_THV, std::move(node), {&x_THV, &dt_TH});
}

Variable head_skip(Context& ctx, const Variable& o_THV, const Variable& x_THV,
                   const Variable& d_H) {
  const DType sums = accumulator_dtype(x_THV.dtype());
  LONGSHIP_CHECK(x_THV.value().rank() == 3 && o_THV.shape() == x_THV.shape() &&
                     o_THV.dtype() == x_THV.dtype() && d_H.shape() == Shape{x_THV.dim(1)},
                 "skip of {} {} around {} {} with {}", dtype_name(x_THV.dtype()),
                 shape_string(x_THV.shape()), dtype_name(o_THV.dtype()),
                 shape_string(o_THV.shape()), shape_string(d_H.shape()));
  const Tensor o = o_THV.value().contiguous(), x = x_THV.value().contiguous();
  const Tensor d = d_H.value().to(sums).contiguous();
  const Tensor y_THV = ctx.empty(x.shape(), x.dtype());
  const int64_t H = x.dim(1), V = x.dim(2);
  dispatch_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    for_each_row(ctx, y_THV, V, [&](int64_t first) {
      const T* kept = o.data<T>() + first;
      const T* in = x.data<T>() + first;
      T* out = y_THV.data<T>() + first;
      const A factor = d.data<A>()[first / V % H];
#pragma GCC ivdep
      for (int64_t v = 0; v < V; ++v)
        out[v] = static_cast<T>(static_cast<A>(kept[v]) + factor * static_cast<A>(in[v]));
    });
  });
  std::unique_ptr<HeadSkipNode> node;
  if (is_recording(ctx, {&o_THV, &x_THV, &d_H})) {
    node = std::make_unique<HeadSkipNode>();
    node->saved = {x, d};
  }
  return record(ctx, "head_skip", y_THV, std::move(node), {&o_THV, &x_THV, &d_H});
}

}  // namespace longship
