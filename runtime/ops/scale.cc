#include "runtime/ops/scale.h"

#include "runtime/device_dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

void scale_cpu(const Context& ctx, const Tensor& x, double factor, const Tensor& y) {
  dispatch_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    const A by = static_cast<A>(factor);
    const T* p = x.data<T>();
    T* out = y.data<T>();
    parallel_for(ctx, y.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i) out[i] = static_cast<T>(by * static_cast<A>(p[i]));
    });
  });
}

Tensor scaled(Context& ctx, const Tensor& tensor, double factor) {
  const Tensor x = tensor.contiguous();
  const Tensor y = ctx.empty(x.shape(), x.dtype());
  dispatch_device(
      y, [&] { scale_cpu(ctx, x, factor, y); },
      [&] {
        scale_cuda(elementwise({&x}, {&y}), static_cast<float>(factor), compute_stream(ctx));
      });
  return y;
}

struct ScaleNode final : Node {
  double factor;

  explicit ScaleNode(double f) : factor(f) {}
  const char* name() const override { return "scale"; }

  void backward(Context& ctx) override {
    input(0)->add(ctx, scaled(ctx, grad_output(ctx), factor));
  }

  void visit_saved(const SavedVisitor&) override {}
};

}  // namespace

Variable scale(Context& ctx, const Variable& x, double factor) {
  std::unique_ptr<Node> node;
  if (is_recording(ctx, {&x})) node = std::make_unique<ScaleNode>(factor);
  return record(ctx, "scale", scaled(ctx, x.value(), factor), std::move(node), {&x});
}

}  // namespace longship
