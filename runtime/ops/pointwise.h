// y = f(x), element by element, as a differentiable op: the frame of activations and gates.
#pragma once

#include "runtime/autograd/tape.h"
#include "runtime/ops/for_each_row.h"

namespace longship {

template <class F>
struct PointwiseNode final : Node {
  struct Saved {
    Tensor x;
  } saved;
  const char* op_name;
  F f;

  PointwiseNode(const char* name, F function) : op_name(name), f(function) {}

  const char* name() const override { return op_name; }

  void backward(Context& ctx) override {
    const Tensor dy = grad_output(ctx).contiguous();
    const Tensor& packed = saved.x;
    const Tensor dx = ctx.empty(dy.shape(), packed.dtype());
    const int64_t num_features = dy.dim(-1);
    dispatch_floating(dx.dtype(), [&](auto x_tag) {
      dispatch_floating(dy.dtype(), [&](auto y_tag) {
        using T = decltype(x_tag);
        using A = Accumulator<T>;
        for_each_row(ctx, dy, num_features, [&](int64_t first) {
          const T* x = packed.data<T>() + first;
          const auto* dy_row = dy.data<decltype(y_tag)>() + first;
          T* dx_row = dx.data<T>() + first;
#pragma GCC ivdep
          for (int64_t i = 0; i < num_features; ++i)
            dx_row[i] = static_cast<T>(static_cast<A>(dy_row[i]) * f.slope(static_cast<A>(x[i])));
        });
      });
    });
    input(0)->add(ctx, dx);
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x", saved.x);
  }
};

// `f` has A value(A) and A slope(A), its derivative, for A = float and double; x is at least one-
// dimensional, and y has the dtype `y_dtype`: x's, or its accumulator's. `name` is a literal.
template <class F>
Variable pointwise(Context& ctx, const char* name, const Variable& x, DType y_dtype, F f) {
  const Tensor packed = x.value().contiguous();
  const Tensor y = ctx.empty(x.shape(), y_dtype);
  const int64_t num_features = x.dim(-1);
  dispatch_floating(x.dtype(), [&](auto x_tag) {
    dispatch_floating(y_dtype, [&](auto y_tag) {
      using A = Accumulator<decltype(x_tag)>;
      using Y = decltype(y_tag);
      for_each_row(ctx, y, num_features, [&](int64_t first) {
        const auto* in = packed.data<decltype(x_tag)>() + first;
        Y* out = y.data<Y>() + first;
#pragma GCC ivdep
        for (int64_t i = 0; i < num_features; ++i)
          out[i] = static_cast<Y>(static_cast<Accumulator<Y>>(f.value(static_cast<A>(in[i]))));
      });
    });
  });
  std::unique_ptr<PointwiseNode<F>> node;
  if (is_recording(ctx, {&x})) {
    node = std::make_unique<PointwiseNode<F>>(name, f);
    node->saved = {packed};
  }
  return record(ctx, name, y, std::move(node), {&x});
}

}  // namespace longship
