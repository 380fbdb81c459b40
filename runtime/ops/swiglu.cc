#include "runtime/ops/swiglu.h"

#include "runtime/device_dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/for_each_row.h"
#include "runtime/vector_sigmoid.h"

namespace longship {
namespace {

void forward_cpu(const Context& ctx, const Tensor& gate_TF, const Tensor& up_TF,
                 const Tensor& y_TF) {
  const int64_t F = y_TF.dim(-1);
  dispatch_floating(y_TF.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    for_each_row(ctx, y_TF, F, [&](int64_t first) {
      const T* gate = gate_TF.data<T>() + first;
      const T* up = up_TF.data<T>() + first;
      T* y = y_TF.data<T>() + first;
#pragma GCC ivdep
      for (int64_t f = 0; f < F; ++f) {
        const A x = static_cast<A>(gate[f]);
        y[f] = static_cast<T>(x * vector_sigmoid(x) * static_cast<A>(up[f]));
      }
    });
  });
}

struct SwigluNode final : Node {
  struct Saved {
    Tensor gate_TF, up_TF;
  } saved;

  const char* name() const override { return "swiglu"; }

  void backward(Context& ctx) override {
    const Tensor dy_TF = grad_output(ctx).contiguous();
    const Tensor dgate_TF = ctx.empty(dy_TF.shape(), dy_TF.dtype());
    const Tensor dup_TF = ctx.empty(dy_TF.shape(), dy_TF.dtype());
    dispatch_device(
        dy_TF, [&] { backward_cpu(ctx, dy_TF, dgate_TF, dup_TF); },
        [&] {
          swiglu_backward_cuda(
              elementwise({&saved.gate_TF, &saved.up_TF, &dy_TF}, {&dgate_TF, &dup_TF}),
              compute_stream(ctx));
        });
    if (input(0)) input(0)->add(ctx, dgate_TF);
    if (input(1)) input(1)->add(ctx, dup_TF);
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("gate_TF", saved.gate_TF);
    visit("up_TF", saved.up_TF);
  }

 private:
  void backward_cpu(const Context& ctx, const Tensor& dy_TF, const Tensor& dgate_TF,
                    const Tensor& dup_TF) const {
    const int64_t F = dy_TF.dim(-1);
    dispatch_floating(dy_TF.dtype(), [&](auto tag) {
      using T = decltype(tag);
      using A = Accumulator<T>;
      for_each_row(ctx, dy_TF, F, [&](int64_t first) {
        const T* gate = saved.gate_TF.data<T>() + first;
        const T* up = saved.up_TF.data<T>() + first;
        const T* dy = dy_TF.data<T>() + first;
        T* dgate = dgate_TF.data<T>() + first;
        T* dup = dup_TF.data<T>() + first;
#pragma GCC ivdep
        for (int64_t f = 0; f < F; ++f) {
          const A g = static_cast<A>(gate[f]);
          const A d = static_cast<A>(dy[f]);
          const A s = vector_sigmoid(g);
          dgate[f] = static_cast<T>(d * static_cast<A>(up[f]) * s * (1 + g * (1 - s)));
          dup[f] = static_cast<T>(d * g * s);
        }
      });
    });
  }
};

}  // namespace

Variable swiglu(Context& ctx, const Variable& gate_TF, const Variable& up_TF) {
  LONGSHIP_CHECK(gate_TF.shape() == up_TF.shape() && gate_TF.dtype() == up_TF.dtype(),
                 "swiglu of {} {} and {} {}", dtype_name(gate_TF.dtype()),
                 shape_string(gate_TF.shape()), dtype_name(up_TF.dtype()),
                 shape_string(up_TF.shape()));
  const Tensor gate = gate_TF.value().contiguous();
  const Tensor up = up_TF.value().contiguous();
  const Tensor y_TF = ctx.empty(gate.shape(), gate.dtype());
  require_one_device("swiglu", {&gate, &up, &y_TF});
  dispatch_device(
      y_TF, [&] { forward_cpu(ctx, gate, up, y_TF); },
      [&] {
        swiglu_forward_cuda(elementwise({&gate, &up}, {&y_TF}), compute_stream(ctx));
      });
  std::unique_ptr<SwigluNode> node;
  if (is_recording(ctx, {&gate_TF, &up_TF})) {
    node = std::make_unique<SwigluNode>();
    node->saved = {gate, up};
  }
  return record(ctx, "swiglu", y_TF, std::move(node), {&gate_TF, &up_TF});
}

}  // namespace longship
