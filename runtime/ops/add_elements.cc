#include "runtime/ops/add_elements.h"

#include "runtime/device_dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

void add_cpu(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& sum) {
  dispatch_floating(sum.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    const T* p = a.data<T>();
    const T* q = b.data<T>();
    T* out = sum.data<T>();
    parallel_for(ctx, sum.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i)
        out[i] = static_cast<T>(static_cast<A>(p[i]) + static_cast<A>(q[i]));
    });
  });
}

}  // namespace

void add_elements(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& sum) {
  dispatch_device(
      sum, [&] { add_cpu(ctx, a, b, sum); },
      [&] {
        add_cuda(elementwise({&a, &b}, {&sum}), compute_stream(ctx));
      });
}

}  // namespace longship
