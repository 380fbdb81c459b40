#include "runtime/ops/sink_logit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
#include "runtime/ops/sink_logit_cuda.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

constexpr int64_t kBlockRows = 1024;

void check_sizes(const Tensor& sink_H, const Tensor& lse_TH) {
  LONGSHIP_CHECK(lse_TH.rank() == 2 && lse_TH.is_contiguous() &&
                     lse_TH.dtype() == accumulator_dtype(lse_TH.dtype()),
                 "lse {} {}", dtype_name(lse_TH.dtype()), shape_string(lse_TH.shape()));
  LONGSHIP_CHECK(is_floating(sink_H.dtype()) && sink_H.shape() == Shape{lse_TH.dim(1)},
                 "sink logits {} {} of {} heads", dtype_name(sink_H.dtype()),
                 shape_string(sink_H.shape()), lse_TH.dim(1));
}

// Merges one row with its sink; returns lse'.
template <class O, class A = Accumulator<O>>
A merge_row(int64_t V, O* o, A lse, A sink) {
  constexpr A kNoKey = -std::numeric_limits<A>::infinity();
  if (sink == kNoKey) return lse;
  if (lse == kNoKey) return sink;
  const A ratio = std::exp(-std::abs(lse - sink));
  const A keep = (lse > sink ? A{1} : ratio) / (1 + ratio);
#pragma GCC ivdep
  for (int64_t v = 0; v < V; ++v) o[v] = static_cast<O>(static_cast<A>(o[v]) * keep);
  return std::max(lse, sink) + std::log1p(ratio);
}

void add_cpu(const Context& ctx, const Tensor& wide_H, const Tensor& o_THV, const Tensor& lse_TH) {
  const int64_t H = o_THV.dim(1), V = o_THV.dim(2);
  dispatch_floating(o_THV.dtype(), [&](auto tag) {
    using O = decltype(tag);
    using A = Accumulator<O>;
    const A* sink = wide_H.data<A>();
    O* o = o_THV.data<O>();
    A* lse = lse_TH.data<A>();
    const int64_t grain = std::max<int64_t>(1, (1 << 13) / std::max<int64_t>(1, V));
    parallel_for(ctx, lse_TH.numel(), grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        lse[row] = merge_row(V, o + row * V, lse[row], sink[row % H]);
    });
  });
}

void gradient_cpu(const Context& ctx, const Tensor& sink_H, const Tensor& lse_TH,
                  const Tensor& delta_TH, const Tensor& gradient_H) {
  const int64_t T = lse_TH.dim(0), H = lse_TH.dim(1);
  const int64_t num_blocks = (T + kBlockRows - 1) / kBlockRows;
  const Tensor wide_H = sink_H.to(DType::kF64).contiguous();
  const double* sink = wide_H.data<double>();
  dispatch_floating(lse_TH.dtype(), [&](auto tag) {
    using A = Accumulator<decltype(tag)>;
    const A *lse = lse_TH.data<A>(), *delta = delta_TH.data<A>();
    // One partial sum for each block and head, so that threads do not change the order.
    std::vector<double> partial(static_cast<size_t>(num_blocks * H), 0.0);
    parallel_for(ctx, num_blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin * kBlockRows; t < std::min(T, end * kBlockRows); ++t)
        for (int64_t h = 0; h < H; ++h) {
          // A sink of weight zero, whatever lse is: -inf of a row without keys.
          if (sink[h] == -std::numeric_limits<double>::infinity()) continue;
          const double p = std::exp(sink[h] - static_cast<double>(lse[t * H + h]));
          partial[static_cast<size_t>(t / kBlockRows * H + h)] -=
              p * static_cast<double>(delta[t * H + h]);
        }
    });
    for (int64_t h = 0; h < H; ++h) {
      double sum = 0;
      for (int64_t block = 0; block < num_blocks; ++block)
        sum += partial[static_cast<size_t>(block * H + h)];
      gradient_H.data<A>()[h] = static_cast<A>(sum);
    }
  });
}

void gradient_cuda(const Context& ctx, const Tensor& sink_H, const Tensor& lse_TH,
                   const Tensor& delta_TH, const Tensor& gradient_H) {
  const int64_t T = lse_TH.dim(0), H = lse_TH.dim(1);
  const Tensor wide_H = sink_H.to(DType::kF32).contiguous();
  const Tensor partials_BH = ctx.empty({sink_logit_num_partials(T), H}, DType::kF64);
  sink_logit_gradient_cuda({.num_tokens = T,
                            .num_heads = H,
                            .sink_H = wide_H.device_data<float>(),
                            .lse_TH = lse_TH.device_data<float>(),
                            .delta_TH = delta_TH.device_data<float>(),
                            .partials_BH = partials_BH.device_data<double>(),
                            .gradient_H = gradient_H.device_data<float>()},
                           compute_stream(ctx));
}

}  // namespace

void add_sink_logit(const Context& ctx, const Tensor& sink_H, const Tensor& o_THV,
                    const Tensor& lse_TH) {
  check_sizes(sink_H, lse_TH);
  LONGSHIP_CHECK(o_THV.rank() == 3 && o_THV.is_contiguous() &&
                     accumulator_dtype(o_THV.dtype()) == lse_TH.dtype() &&
                     lse_TH.shape() == (Shape{o_THV.dim(0), o_THV.dim(1)}),
                 "sink logits of o {} {} with lse {}", dtype_name(o_THV.dtype()),
                 shape_string(o_THV.shape()), shape_string(lse_TH.shape()));
  require_one_device("add_sink_logit", {&sink_H, &o_THV, &lse_TH});
  const Tensor wide_H = sink_H.to(lse_TH.dtype()).contiguous();
  dispatch_device(
      o_THV, [&] { add_cpu(ctx, wide_H, o_THV, lse_TH); },
      [&] {
        add_sink_logit_cuda({.num_rows = lse_TH.numel(),
                             .row_length = o_THV.dim(2),
                             .num_heads = o_THV.dim(1),
                             .o_dtype = o_THV.dtype(),
                             .sink_H = wide_H.device_data<float>(),
                             .o_RV = o_THV.address(),
                             .lse_R = lse_TH.device_data<float>()},
                            compute_stream(ctx));
      });
}

Tensor sink_logit_gradient(const Context& ctx, const Tensor& sink_H, const Tensor& lse_TH,
                           const Tensor& delta_TH) {
  check_sizes(sink_H, lse_TH);
  LONGSHIP_CHECK(delta_TH.shape() == lse_TH.shape() && delta_TH.dtype() == lse_TH.dtype() &&
                     delta_TH.is_contiguous(),
                 "delta {} {} with lse {}", dtype_name(delta_TH.dtype()),
                 shape_string(delta_TH.shape()), shape_string(lse_TH.shape()));
  const Tensor gradient_H = ctx.empty({lse_TH.dim(1)}, lse_TH.dtype());
  require_one_device("sink_logit_gradient", {&sink_H, &lse_TH, &delta_TH, &gradient_H});
  dispatch_device(
      gradient_H, [&] { gradient_cpu(ctx, sink_H, lse_TH, delta_TH, gradient_H); },
      [&] { gradient_cuda(ctx, sink_H, lse_TH, delta_TH, gradient_H); });
  return gradient_H;
}

}  // namespace longship
