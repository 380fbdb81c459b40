// The passes of a short convolution over rows that are all there (TapRows): the convolution, which
// is its transpose too, and the gradients of sums and weights.
//
// Names as in convolution_taps.h; T tokens of this rank.
#pragma once

#include <array>

#include "attention/linear/convolution_taps.h"
#include "attention/linear/tap_rows.h"
#include "runtime/parallel_for.h"
#include "runtime/vector_sigmoid.h"

namespace longship {

// The convolution of one input, or its transpose.
template <class X, class Y>
struct Convolution {
  TapRows<X> rows;
  ConvolutionTaps<Accumulator<Y>> taps;
  Tensor y_TC;

  // y = f(weighed rows) for local rows in `range`.
  void compute(const Context& ctx, RowRange range) const {
    using A = Accumulator<Y>;
    constexpr int64_t kRows = 8;
    const int64_t C = taps.num_channels, W = taps.width;
    Y* const y_data = y_TC.data<Y>();
    const int64_t grain = std::max<int64_t>(kRows, (1 << 13) / std::max<int64_t>(1, C));
    parallel_for(ctx, range.count, grain, [&](int64_t first, int64_t last) {
      std::array<const X*, kRows * kMaxConvolutionWidth> found;
      for (int64_t t = range.begin + first; t < range.begin + last; ++t) {
        const int64_t ahead = (t - range.begin - first) % kRows;
        if (ahead == 0) rows.find(t, std::min(t + kRows, range.begin + last), found.data());
        Y* y = y_data + t * C;
        for_each_channel_strip(C, [&](int64_t c, auto count) {
          const int64_t n = count;
          alignas(64) A sum[kConvolutionStrip];
          weigh_rows(taps, found.data() + ahead * W, c, count, sum);
          if (taps.silu) {
#pragma GCC ivdep
            for (int64_t i = 0; i < n; ++i) sum[i] *= vector_sigmoid(sum[i]);
          }
#pragma GCC ivdep
          for (int64_t i = 0; i < n; ++i) y[c + i] = static_cast<Y>(sum[i]);
        });
      }
    });
  }
};

// Of the sums and, by products with the rows, of the taps; all in the accumulator dtype A.
template <class T>
struct ConvolutionGradients {
  using A = Accumulator<T>;

  Tensor dsum_TC;
  Tensor dtaps_DC;  // the taps', then the bias's: [W + 1, C]

  // One pass over the rows: weighs them again, dsum = dy f'(sum), and its products with the rows.
  ConvolutionGradients(const Context& ctx, const TapRows<T>& rows, const ConvolutionTaps<A>& taps,
                       const Tensor& dy_TC)
      : dsum_TC(ctx.empty(dy_TC.shape(), DTypeOf<A>::value)),
        dtaps_DC(ctx.zeros({taps.width + 1, taps.num_channels}, DTypeOf<A>::value)) {
    const int64_t num_tokens = dy_TC.dim(0), size = dtaps_DC.numel();
    const int64_t num_blocks = (num_tokens + kRowsPerSum - 1) / kRowsPerSum;
    const Tensor parts_BDC =
        ctx.empty({num_blocks, taps.width + 1, taps.num_channels}, DTypeOf<A>::value);
    parallel_for(ctx, num_blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kRowsPerSum;
        pass(rows, taps, {begin, std::min(kRowsPerSum, num_tokens - begin)}, dy_TC.data<T>(),
             parts_BDC.data<A>() + block * size);
      }
    });
    parallel_for(ctx, size, 1 << 10, [&](int64_t first, int64_t last) {
      A* sum = dtaps_DC.data<A>();
      for (int64_t block = 0; block < num_blocks; ++block) {
        const A* part = parts_BDC.data<A>() + block * size;
        for (int64_t i = first; i < last; ++i) sum[i] += part[i];
      }
    });
  }

 private:
  // Rows whose parts of the weights' gradients are summed first; the order of sums hangs on it.
  static constexpr int64_t kRowsPerSum = 64;

  // The rows of one block; `part_DC` gets their dtaps.
  void pass(const TapRows<T>& rows, const ConvolutionTaps<A>& taps, RowRange range, const T* dy,
            A* part_DC) const {
    constexpr int64_t kRowsAtOnce = 4;
    const int64_t C = taps.num_channels, W = taps.width;
    A* const dsum_data = dsum_TC.data<A>();
    std::array<const T*, kRowsPerSum * kMaxConvolutionWidth> found;
    rows.find(range.begin, range.end(), found.data());
    for_each_channel_strip(C, [&](int64_t c, auto count) {
      const int64_t n = count;
      alignas(64) A dtaps[(kMaxConvolutionWidth + 1) * kConvolutionStrip];
      std::fill_n(dtaps, (W + 1) * kConvolutionStrip, A{0});
      for (int64_t t = range.begin; t < range.end(); t += kRowsAtOnce) {
        const int64_t num_rows = std::min(kRowsAtOnce, range.end() - t);
        const T* const* at = found.data() + (t - range.begin) * W;
        A* const dsum = dsum_data + t * C + c;
        for (int64_t r = 0; r < num_rows; ++r)
          gradient_of_sum(taps, at + r * W, dy + (t + r) * C + c, c, count, dsum + r * C);
        for (int64_t d = 0; d < W; ++d)
          add_products(
              num_rows, count, [&](int64_t r) { return dsum + r * C; },
              [&](int64_t r) { return at[r * W + d] + c; }, dtaps + d * kConvolutionStrip);
        for (int64_t r = 0; r < num_rows; ++r) {
#pragma GCC ivdep
          for (int64_t i = 0; i < n; ++i) dtaps[W * kConvolutionStrip + i] += dsum[r * C + i];
        }
      }
      for (int64_t d = 0; d <= W; ++d)
        std::copy_n(dtaps + d * kConvolutionStrip, n, part_DC + d * C + c);
    });
  }

  // dsum = dy f'(sum) for n channels from c on.
  template <class Count>
  static void gradient_of_sum(const ConvolutionTaps<A>& taps, const T* const* rows, const T* dy,
                              int64_t c, Count count, A* dsum) {
    const int64_t n = count;
    if (!taps.silu) {
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) dsum[i] = static_cast<A>(dy[i]);
      return;
    }
    alignas(64) A sum[kConvolutionStrip];
    weigh_rows(taps, rows, c, count, sum);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const A s = vector_sigmoid(sum[i]);
      dsum[i] = static_cast<A>(dy[i]) * s * (1 + sum[i] * (1 - s));
    }
  }
};

}  // namespace longship
