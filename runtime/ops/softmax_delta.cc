#include "runtime/ops/softmax_delta.h"

#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
#include "runtime/interleaved_sum.h"
#include "runtime/ops/softmax_delta_cuda.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

template <class O, class G>
Accumulator<O> dot(const O* o, const G* grad, int64_t length) {
  using A = Accumulator<O>;
  return interleaved_sum<A>(
      length, [&](int64_t v) { return static_cast<A>(o[v]) * static_cast<A>(grad[v]); });
}

void delta_cpu(const Context& ctx, const Tensor& o_THV, const Tensor& do_THV,
               const Tensor& delta_TH) {
  const int64_t length = o_THV.dim(2);
  dispatch_floating(o_THV.dtype(), [&](auto o_tag) {
    dispatch_floating(do_THV.dtype(), [&](auto grad_tag) {
      using O = decltype(o_tag);
      using G = decltype(grad_tag);
      if constexpr (std::is_same_v<Accumulator<O>, Accumulator<G>>) {
        const O* o = o_THV.data<O>();
        const G* grad = do_THV.data<G>();
        auto* delta = delta_TH.data<Accumulator<O>>();
        parallel_for(ctx, delta_TH.numel(), 256, [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row)
            delta[row] = dot(o + row * length, grad + row * length, length);
        });
      }
    });
  });
}

void delta_cuda(const Context& ctx, const Tensor& o_THV, const Tensor& do_THV,
                const Tensor& delta_TH) {
  softmax_delta_cuda({.num_rows = delta_TH.numel(),
                      .row_length = o_THV.dim(2),
                      .o_dtype = o_THV.dtype(),
                      .do_dtype = do_THV.dtype(),
                      .o_RV = o_THV.address(),
                      .do_RV = do_THV.address(),
                      .delta_R = delta_TH.device_data<float>()},
                     compute_stream(ctx));
}

}  // namespace

Tensor softmax_delta(const Context& ctx, const Tensor& o_THV, const Tensor& do_THV) {
  LONGSHIP_CHECK(o_THV.rank() == 3 && o_THV.shape() == do_THV.shape(), "o {} with do {}",
                 shape_string(o_THV.shape()), shape_string(do_THV.shape()));
  LONGSHIP_CHECK(o_THV.is_contiguous() && do_THV.is_contiguous(), "o and do must be contiguous");
  const DType dtype = accumulator_dtype(o_THV.dtype());
  LONGSHIP_CHECK(dtype == accumulator_dtype(do_THV.dtype()), "o is {}, do is {}",
                 dtype_name(o_THV.dtype()), dtype_name(do_THV.dtype()));
  const Tensor delta_TH = ctx.empty({o_THV.dim(0), o_THV.dim(1)}, dtype);
  require_one_device("softmax_delta", {&o_THV, &do_THV, &delta_TH});
  dispatch_device(
      delta_TH, [&] { delta_cpu(ctx, o_THV, do_THV, delta_TH); },
      [&] { delta_cuda(ctx, o_THV, do_THV, delta_TH); });
  return delta_TH;
}

}  // namespace longship
