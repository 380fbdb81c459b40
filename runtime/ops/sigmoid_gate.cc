#include "runtime/ops/sigmoid_gate.h"

#include "runtime/device_dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/for_each_row.h"
#include "runtime/vector_sigmoid.h"

namespace longship {
namespace {

void forward_cpu(const Context& ctx, const Tensor& x_of, const Tensor& gate_of,
                 const Tensor& y_of) {
  dispatch_floating(y_of.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    const T *x = x_of.data<T>(), *gate = gate_of.data<T>();
    T* y = y_of.data<T>();
    const int64_t num_features = y_of.dim(-1);
    for_each_row(ctx, y_of, num_features, [&](int64_t first) {
#pragma GCC ivdep
      for (int64_t i = first; i < first + num_features; ++i)
        y[i] = static_cast<T>(static_cast<A>(x[i]) * vector_sigmoid(static_cast<A>(gate[i])));
    });
  });
}

struct SigmoidGateNode final : Node {
  struct Saved {
    Tensor x, gate;
  } saved;

  const char* name() const override { return "sigmoid_gate"; }

  void backward(Context& ctx) override {
    const Tensor dy_of = grad_output(ctx).contiguous();
    const Tensor dx_of = ctx.empty(dy_of.shape(), dy_of.dtype());
    const Tensor dgate_of = ctx.empty(dy_of.shape(), dy_of.dtype());
    dispatch_device(
        dy_of, [&] { backward_cpu(ctx, dy_of, dx_of, dgate_of); },
        [&] {
          sigmoid_gate_backward_cuda(
              elementwise({&saved.x, &saved.gate, &dy_of}, {&dx_of, &dgate_of}),
              compute_stream(ctx));
        });
    if (input(0)) input(0)->add(ctx, dx_of);
    if (input(1)) input(1)->add(ctx, dgate_of);
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x", saved.x);
    visit("gate", saved.gate);
  }

 private:
  void backward_cpu(const Context& ctx, const Tensor& dy_of, const Tensor& dx_of,
                    const Tensor& dgate_of) const {
    dispatch_floating(dy_of.dtype(), [&](auto tag) {
      using T = decltype(tag);
      using A = Accumulator<T>;
      const T *x = saved.x.data<T>(), *gate = saved.gate.data<T>(), *dy = dy_of.data<T>();
      T *dx = dx_of.data<T>(), *dgate = dgate_of.data<T>();
      const int64_t num_features = dy_of.dim(-1);
      for_each_row(ctx, dy_of, num_features, [&](int64_t first) {
#pragma GCC ivdep
        for (int64_t i = first; i < first + num_features; ++i) {
          const A s = vector_sigmoid(static_cast<A>(gate[i]));
          const A d = static_cast<A>(dy[i]) * s;
          dx[i] = static_cast<T>(d);
          dgate[i] = static_cast<T>(d * static_cast<A>(x[i]) * (1 - s));
        }
      });
    });
  }
};

}  // namespace

Variable sigmoid_gate(Context& ctx, const Variable& x, const Variable& gate) {
  LONGSHIP_CHECK(x.shape() == gate.shape() && x.dtype() == gate.dtype(), "gate {} {} of {} {}",
                 dtype_name(gate.dtype()), shape_string(gate.shape()), dtype_name(x.dtype()),
                 shape_string(x.shape()));
  const Tensor x_of = x.value().contiguous(), gate_of = gate.value().contiguous();
  const Tensor y_of = ctx.empty(x.shape(), x.dtype());
  require_one_device("sigmoid_gate", {&x_of, &gate_of, &y_of});
  dispatch_device(
      y_of, [&] { forward_cpu(ctx, x_of, gate_of, y_of); },
      [&] {
        sigmoid_gate_forward_cuda(elementwise({&x_of, &gate_of}, {&y_of}), compute_stream(ctx));
      });
  std::unique_ptr<SigmoidGateNode> node;
  if (is_recording(ctx, {&x, &gate})) {
    node = std::make_unique<SigmoidGateNode>();
    node->saved = {x_of, gate_of};
  }
  return record(ctx, "sigmoid_gate", y_of, std::move(node), {&x, &gate});
}

}  // namespace longship
