// y = f(x), element by element, as a differentiable op: the frame of activations and gates.
#pragma once

#include "runtime/autograd/tape.h"
#include "runtime/device_dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/for_each_row.h"

namespace longship {

// An f that GPUs know too, where y has the dtype of x.
template <class F>
concept PointwiseOnGpu = requires(const F f, const ElementwiseCuda& op, StreamHandle stream) {
  f.forward_cuda(op, stream);   // x -> y
  f.backward_cuda(op, stream);  // x, dy -> dx
};

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
    const Tensor dx = ctx.empty(dy.shape(), saved.x.dtype());
    dispatch_device(
        dx, [&] { backward_cpu(ctx, dy, dx); },
        [&] {
          if constexpr (PointwiseOnGpu<F>) {
            f.backward_cuda(elementwise({&saved.x, &dy}, {&dx}), compute_stream(ctx));
          } else {
            LONGSHIP_CHECK(false, "{} has no code for a GPU", op_name);
          }
        });
    input(0)->add(ctx, dx);
  }

  void visit_saved(const SavedVisitor& visit) override { visit("x", saved.x); }

 private:
  void backward_cpu(const Context& ctx, const Tensor& dy_of, const Tensor& dx_of) const {
    const int64_t num_features = dy_of.dim(-1);
    dispatch_floating(dx_of.dtype(), [&](auto x_tag) {
      dispatch_floating(dy_of.dtype(), [&](auto y_tag) {
        using T = decltype(x_tag);
        using A = Accumulator<T>;
        for_each_row(ctx, dy_of, num_features, [&](int64_t first) {
          const T* x = saved.x.template data<T>() + first;
          const auto* dy = dy_of.data<decltype(y_tag)>() + first;
          T* dx = dx_of.data<T>() + first;
#pragma GCC ivdep
          for (int64_t i = 0; i < num_features; ++i)
            dx[i] = static_cast<T>(static_cast<A>(dy[i]) * f.slope(static_cast<A>(x[i])));
        });
      });
    });
  }
};

template <class F>
void pointwise_forward_cpu(const Context& ctx, const Tensor& x_of, const F& f, const Tensor& y_of) {
  const int64_t num_features = y_of.dim(-1);
  dispatch_floating(x_of.dtype(), [&](auto x_tag) {
    dispatch_floating(y_of.dtype(), [&](auto y_tag) {
      using A = Accumulator<decltype(x_tag)>;
      using Y = decltype(y_tag);
      for_each_row(ctx, y_of, num_features, [&](int64_t first) {
        const auto* x = x_of.data<decltype(x_tag)>() + first;
        Y* y = y_of.data<Y>() + first;
#pragma GCC ivdep
        for (int64_t i = 0; i < num_features; ++i)
          y[i] = static_cast<Y>(static_cast<Accumulator<Y>>(f.value(static_cast<A>(x[i]))));
      });
    });
  });
}

// `f` has A value(A) and A slope(A), its derivative, for A = float and double; x is at least one-
// dimensional, and y has the dtype `y_dtype`: x's, or its accumulator's. `name` is a literal. On a
// GPU, f has to be a PointwiseOnGpu.
template <class F>
Variable pointwise(Context& ctx, const char* name, const Variable& x, DType y_dtype, F f) {
  const Tensor packed = x.value().contiguous();
  const Tensor y = ctx.empty(x.shape(), y_dtype);
  require_one_device(name, {&packed, &y});
  dispatch_device(
      y, [&] { pointwise_forward_cpu(ctx, packed, f, y); },
      [&] {
        if constexpr (PointwiseOnGpu<F>) {
          f.forward_cuda(elementwise({&packed}, {&y}), compute_stream(ctx));
        } else {
          LONGSHIP_CHECK(false, "{} has no code for a GPU", name);
        }
      });
  std::unique_ptr<PointwiseNode<F>> node;
  if (is_recording(ctx, {&x})) {
    node = std::make_unique<PointwiseNode<F>>(name, f);
    node->saved = {packed};
  }
  return record(ctx, name, y, std::move(node), {&x});
}

}  // namespace longship
