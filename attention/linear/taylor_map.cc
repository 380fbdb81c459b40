// D = d, the size that is mapped; P = 1 + D + D^2 features; W = V + 1.
#include "attention/linear/taylor_map.h"

#include <algorithm>
#include <cmath>

#include "runtime/interleaved_sum.h"
#include "runtime/ops/for_each_row.h"
#include "runtime/ops/split.h"

namespace longship {
namespace {

// The factors of the linear and of the quadratic features.
template <class A>
struct Factors {
  explicit Factors(int64_t D)
      : linear(static_cast<A>(std::pow(static_cast<double>(D), -0.25))),
        quadratic(static_cast<A>(1 / std::sqrt(2 * static_cast<double>(D)))) {}
  A linear, quadratic;
};

struct TaylorMapNode final : Node {
  struct Saved {
    Tensor x_THD;
  } saved;

  const char* name() const override { return "taylor_map"; }

  void backward(Context& ctx) override {
    const Tensor dphi_THP = grad_output(ctx).contiguous();
    const Tensor dx_THD = ctx.empty(saved.x_THD.shape(), saved.x_THD.dtype());
    const int64_t D = dx_THD.dim(2), P = dphi_THP.dim(2);
    dispatch_floating(dx_THD.dtype(), [&](auto tag) {
      using T = decltype(tag);
      using A = Accumulator<T>;
      const Factors<A> factors(D);
      for_each_row(ctx, dphi_THP, P, [&](int64_t first) {
        const T* x = saved.x_THD.data<T>() + first / P * D;
        const T* dphi = dphi_THP.data<T>() + first;
        const T* square = dphi + 1 + D;
        T* dx = dx_THD.data<T>() + first / P * D;
        for (int64_t i = 0; i < D; ++i) {
          const A sum = interleaved_sum<A>(D, [&](int64_t j) {
            return (static_cast<A>(square[i * D + j]) + static_cast<A>(square[j * D + i])) *
                   static_cast<A>(x[j]);
          });
          dx[i] = static_cast<T>(factors.linear * static_cast<A>(dphi[1 + i]) +
                                 factors.quadratic * sum);
        }
      });
    });
    input(0)->add(ctx, dx_THD);
  }

  void visit_saved(const SavedVisitor& visit) override { visit("x_THD", saved.x_THD); }
};

struct DividedNode final : Node {
  struct Saved {
    Tensor o_THW;
  } saved;

  const char* name() const override { return "divided_by_last"; }

  // With y = o / l:  do = dy / l,  dl = -(dy . y) / l.
  void backward(Context& ctx) override {
    const Tensor dy_THV = grad_output(ctx).contiguous();
    const Tensor do_THW = ctx.empty(saved.o_THW.shape(), saved.o_THW.dtype());
    const int64_t V = dy_THV.dim(2), W = V + 1;
    dispatch_floating(dy_THV.dtype(), [&](auto tag) {
      using T = decltype(tag);
      using A = Accumulator<T>;
      for_each_row(ctx, do_THW, W, [&](int64_t first) {
        const T* o = saved.o_THW.data<T>() + first;
        const T* dy = dy_THV.data<T>() + first / W * V;
        T* into = do_THW.data<T>() + first;
        const A inverse = 1 / static_cast<A>(o[V]);
        const A dot = interleaved_sum<A>(
            V, [&](int64_t v) { return static_cast<A>(dy[v]) * static_cast<A>(o[v]); });
#pragma GCC ivdep
        for (int64_t v = 0; v < V; ++v) into[v] = static_cast<T>(static_cast<A>(dy[v]) * inverse);
        into[V] = static_cast<T>(-dot * inverse * inverse);
      });
    });
    input(0)->add(ctx, do_THW);
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("o_THW", saved.o_THW);
  }
};

}  // namespace

Variable taylor_map(Context& ctx, const Variable& x_THD) {
  const Tensor x = x_THD.value().contiguous();
  LONGSHIP_CHECK(x.rank() == 3 && x.dim(2) > 0, "taylor_map of {}", shape_string(x.shape()));
  const int64_t D = x.dim(2), P = 1 + D + D * D;
  const Tensor phi_THP = ctx.empty({x.dim(0), x.dim(1), P}, x.dtype());
  dispatch_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    const Factors<A> factors(D);
    for_each_row(ctx, phi_THP, P, [&](int64_t first) {
      const T* in = x.data<T>() + first / P * D;
      T* phi = phi_THP.data<T>() + first;
      *phi++ = static_cast<T>(A{1});
      for (int64_t i = 0; i < D; ++i)
        *phi++ = static_cast<T>(factors.linear * static_cast<A>(in[i]));
      for (int64_t i = 0; i < D; ++i, phi += D) {
        const A scaled = factors.quadratic * static_cast<A>(in[i]);
#pragma GCC ivdep
        for (int64_t j = 0; j < D; ++j) phi[j] = static_cast<T>(scaled * static_cast<A>(in[j]));
      }
    });
  });
  std::unique_ptr<TaylorMapNode> node;
  if (is_recording(ctx, {&x_THD})) {
    node = std::make_unique<TaylorMapNode>();
    node->saved = {x};
  }
  return record(ctx, "taylor_map", phi_THP, std::move(node), {&x_THD});
}

Variable with_ones(Context& ctx, const Variable& v_THV) {
  LONGSHIP_CHECK(v_THV.value().rank() == 3, "with_ones of {}", shape_string(v_THV.shape()));
  const Tensor ones_TH1 = ctx.empty({v_THV.dim(0), v_THV.dim(1), 1}, v_THV.dtype());
  dispatch_floating(ones_TH1.dtype(), [&](auto tag) {
    using T = decltype(tag);
    std::fill_n(ones_TH1.data<T>(), ones_TH1.numel(), static_cast<T>(1.0f));
  });
  return join(ctx, {v_THV, Variable(ones_TH1)});
}

Variable divided_by_last(Context& ctx, const Variable& o_THW) {
  const Tensor o = o_THW.value().contiguous();
  LONGSHIP_CHECK(o.rank() == 3 && o.dim(2) > 1, "divided_by_last of {}", shape_string(o.shape()));
  const int64_t W = o.dim(2), V = W - 1;
  const Tensor y_THV = ctx.empty({o.dim(0), o.dim(1), V}, o.dtype());
  dispatch_floating(o.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    for_each_row(ctx, y_THV, V, [&](int64_t first) {
      const T* in = o.data<T>() + first / V * W;
      T* y = y_THV.data<T>() + first;
      const A inverse = 1 / static_cast<A>(in[V]);
#pragma GCC ivdep
      for (int64_t v = 0; v < V; ++v) y[v] = static_cast<T>(static_cast<A>(in[v]) * inverse);
    });
  });
  std::unique_ptr<DividedNode> node;
  if (is_recording(ctx, {&o_THW})) {
    node = std::make_unique<DividedNode>();
    node->saved = {o};
  }
  return record(ctx, "divided_by_last", y_THV, std::move(node), {&o_THW});
}

}  // namespace longship
