// The taps of a short convolution, and the weighing of rows by them.
//
// Names: C channels, W the width of the kernel; d counts taps by distance: tap d weighs the row d
// tokens before (in the transpose: behind), so weight_CW[c][W - 1 - d].
#pragma once

#include <algorithm>
#include <type_traits>

#include "runtime/context.h"

namespace longship {

constexpr int64_t kMaxConvolutionWidth = 16;
// A row is worked on in strips of channels that stay in registers.
constexpr int64_t kConvolutionStrip = 64;

// Weights by distance [W, C], the bias, and what follows the sum; in the accumulator dtype A.
template <class A>
struct ConvolutionTaps {
  ConvolutionTaps(const Context& ctx, const Tensor& weight_CW, const Tensor& bias_C, bool with_silu)
      : width(weight_CW.dim(1)),
        num_channels(weight_CW.dim(0)),
        silu(with_silu),
        weight_DC(ctx.empty({width, num_channels}, DTypeOf<A>::value)),
        weight(weight_DC.data<A>()) {
    const Tensor converted = weight_CW.to(DTypeOf<A>::value).contiguous();
    for (int64_t d = 0; d < width; ++d)
      for (int64_t c = 0; c < num_channels; ++c)
        weight_DC.data<A>()[d * num_channels + c] = converted.data<A>()[c * width + width - 1 - d];
    if (!bias_C.defined()) return;
    bias_in_sums_C = bias_C.to(DTypeOf<A>::value).contiguous();
    bias = bias_in_sums_C.data<A>();
  }

  // Of the sums' gradients, in which bias and SiLU have no part.
  ConvolutionTaps transposed() const {
    ConvolutionTaps taps = *this;
    taps.bias = nullptr;
    taps.silu = false;
    return taps;
  }

  int64_t width, num_channels;
  bool silu;
  Tensor weight_DC, bias_in_sums_C;
  const A* weight;
  const A* bias = nullptr;  // null: none
};

// Calls strip(first channel, number of channels) over a row; the number is a constant but for the
// last one. Where an element lies in its strip depends on its channel only, and so do its bits.
template <class F>
inline void for_each_channel_strip(int64_t num_channels, F&& strip) {
  int64_t c = 0;
  for (; c + kConvolutionStrip <= num_channels; c += kConvolutionStrip)
    strip(c, std::integral_constant<int64_t, kConvolutionStrip>());
  if (c < num_channels) strip(c, num_channels - c);
}

// sum[i] += a(j)[i] b(j)[i] for j = 0 to num - 1, in that order, and n elements; four j at a time,
// as loading and storing the sum for each would cost more than the products.
template <class A, class Count, class Left, class Right>
inline void add_products(int64_t num, Count count, Left&& a, Right&& b, A* sum) {
  const int64_t n = count;
  int64_t j = 0;
  for (; j + 4 <= num; j += 4) {
    const A *a0 = a(j), *a1 = a(j + 1), *a2 = a(j + 2), *a3 = a(j + 3);
    const auto *b0 = b(j), *b1 = b(j + 1), *b2 = b(j + 2), *b3 = b(j + 3);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i)
      sum[i] = (((sum[i] + a0[i] * static_cast<A>(b0[i])) + a1[i] * static_cast<A>(b1[i])) +
                a2[i] * static_cast<A>(b2[i])) +
               a3[i] * static_cast<A>(b3[i]);
  }
  for (; j < num; ++j) {
    const A* a0 = a(j);
    const auto* b0 = b(j);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) sum[i] += a0[i] * static_cast<A>(b0[i]);
  }
}

// sum = bias + sum over d of weight[d] rows[d], for n channels from c on.
template <class A, class X, class Count>
inline void weigh_rows(const ConvolutionTaps<A>& taps, const X* const* rows, int64_t c, Count count,
                       A* sum) {
  const int64_t n = count;
  if (taps.bias)
    std::copy_n(taps.bias + c, n, sum);
  else
    std::fill_n(sum, n, A{0});
  add_products(
      taps.width, count, [&](int64_t d) { return taps.weight + d * taps.num_channels + c; },
      [&](int64_t d) { return rows[d] + c; }, sum);
}

}  // namespace longship
