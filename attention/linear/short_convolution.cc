#include "attention/linear/short_convolution.h"

#include <array>

#include "attention/linear/tap_rows.h"
#include "parallel/attention_shape.h"
#include "runtime/parallel_for.h"
#include "runtime/vector_sigmoid.h"

namespace longship {
namespace {

// Taps are counted by distance: tap d weighs the row d tokens before (in the backward: behind), so
// weight_CW[c][W - 1 - d]. A row is worked on in strips of channels that stay in registers.
constexpr int64_t kMaxWidth = 16, kStrip = 64;
// Rows whose parts of the weights' gradients are summed first; the order of sums hangs on it.
constexpr int64_t kRowsPerSum = 64;

// Weights by distance [W, C] and the bias, in the accumulator dtype A.
template <class A>
struct Taps {
  Taps(const Context& ctx, const Tensor& weight_CW, const Tensor& bias_C)
      : width(weight_CW.dim(1)),
        num_channels(weight_CW.dim(0)),
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

  int64_t width, num_channels;
  Tensor weight_DC, bias_in_sums_C;
  const A* weight;
  const A* bias = nullptr;  // null: none
};

// Calls strip(first channel, number of channels) over a row; the number is a constant but for the
// last one. Where an element lies in its strip depends on its channel only, and so do its bits.
template <class F>
inline void for_each_strip(int64_t num_channels, F&& strip) {
  int64_t c = 0;
  for (; c + kStrip <= num_channels; c += kStrip)
    strip(c, std::integral_constant<int64_t, kStrip>());
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
inline void weigh(const Taps<A>& taps, const X* const* rows, int64_t c, Count count, A* sum) {
  const int64_t n = count;
  if (taps.bias)
    std::copy_n(taps.bias + c, n, sum);
  else
    std::fill_n(sum, n, A{0});
  add_products(
      taps.width, count, [&](int64_t d) { return taps.weight + d * taps.num_channels + c; },
      [&](int64_t d) { return rows[d] + c; }, sum);
}

struct RowRange {
  int64_t begin, end;
};

// y = f(weighed rows) for local rows in `range`: the convolution, and its transpose.
template <class X, class Y>
void convolve(const Context& ctx, const TapRows<X>& rows, const Taps<Accumulator<Y>>& taps,
              bool silu, RowRange range, const Tensor& y_TC) {
  using A = Accumulator<Y>;
  constexpr int64_t kRows = 8;
  const int64_t C = taps.num_channels, W = taps.width;
  Y* const y_data = y_TC.data<Y>();
  const int64_t grain = std::max<int64_t>(kRows, (1 << 13) / std::max<int64_t>(1, C));
  parallel_for(ctx, range.end - range.begin, grain, [&](int64_t first, int64_t last) {
    std::array<const X*, kRows * kMaxWidth> found;
    for (int64_t t = range.begin + first; t < range.begin + last; ++t) {
      const int64_t ahead = (t - range.begin - first) % kRows;
      if (ahead == 0) rows.find(t, std::min(t + kRows, range.begin + last), found.data());
      Y* y = y_data + t * C;
      for_each_strip(C, [&](int64_t c, auto count) {
        const int64_t n = count;
        alignas(64) A sum[kStrip];
        weigh(taps, found.data() + ahead * W, c, count, sum);
        if (silu) {
#pragma GCC ivdep
          for (int64_t i = 0; i < n; ++i) sum[i] *= vector_sigmoid(sum[i]);
        }
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) y[c + i] = static_cast<Y>(sum[i]);
      });
    }
  });
}

// Local rows that need a halo, and the runs of rows between them that do not.
struct SplitRows {
  std::vector<RowRange> inner, edge;

  SplitRows(std::span<const Segment> segments, const RowHalo& halo, int64_t width,
            int64_t num_tokens) {
    int64_t next = 0;
    auto add_edge = [&](int64_t begin, int64_t end) {
      if (next < begin) inner.push_back({next, begin});
      if (begin < end) edge.push_back({begin, end});
      next = end;
    };
    for (size_t n = 0; n < segments.size(); ++n) {
      if (halo.rows(n).count == 0) continue;
      const int64_t begin = segments[n].slot, end = begin + segments[n].length;
      const int64_t length = std::min(width - 1, segments[n].length);
      if (halo.side() == HaloSide::kBefore)
        add_edge(begin, begin + length);
      else
        add_edge(end - length, end);
    }
    add_edge(num_tokens, num_tokens);
  }
};

// What the backward of the weighing needs and gives, all in the accumulator dtype A.
template <class T>
struct SumGradients {
  using A = Accumulator<T>;

  Tensor dsum_TC;
  Tensor dtaps_DC;  // the taps', then the bias's: [W + 1, C]

  // One pass over the rows: weighs them again, dsum = dy f'(sum), and its products with the rows.
  SumGradients(const Context& ctx, const TapRows<T>& rows, const Taps<A>& taps, bool silu,
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
        pass(rows, taps, silu, {begin, std::min(begin + kRowsPerSum, num_tokens)}, dy_TC.data<T>(),
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
  // The rows of one block; `part_DC` gets their dtaps.
  void pass(const TapRows<T>& rows, const Taps<A>& taps, bool silu, RowRange range, const T* dy,
            A* part_DC) const {
    constexpr int64_t kRowsAtOnce = 4;
    const int64_t C = taps.num_channels, W = taps.width;
    A* const dsum_data = dsum_TC.data<A>();
    std::array<const T*, kRowsPerSum * kMaxWidth> found;
    rows.find(range.begin, range.end, found.data());
    for_each_strip(C, [&](int64_t c, auto count) {
      const int64_t n = count;
      alignas(64) A dtaps[(kMaxWidth + 1) * kStrip];
      std::fill_n(dtaps, (W + 1) * kStrip, A{0});
      for (int64_t t = range.begin; t < range.end; t += kRowsAtOnce) {
        const int64_t num_rows = std::min(kRowsAtOnce, range.end - t);
        const T* const* at = found.data() + (t - range.begin) * W;
        A* const dsum = dsum_data + t * C + c;
        for (int64_t r = 0; r < num_rows; ++r)
          gradient_of_sum(taps, at + r * W, silu, dy + (t + r) * C + c, c, count, dsum + r * C);
        for (int64_t d = 0; d < W; ++d)
          add_products(
              num_rows, count, [&](int64_t r) { return dsum + r * C; },
              [&](int64_t r) { return at[r * W + d] + c; }, dtaps + d * kStrip);
        for (int64_t r = 0; r < num_rows; ++r) {
#pragma GCC ivdep
          for (int64_t i = 0; i < n; ++i) dtaps[W * kStrip + i] += dsum[r * C + i];
        }
      }
      for (int64_t d = 0; d <= W; ++d) std::copy_n(dtaps + d * kStrip, n, part_DC + d * C + c);
    });
  }

  // dsum = dy f'(sum) for n channels from c on.
  template <class Count>
  static void gradient_of_sum(const Taps<A>& taps, const T* const* rows, bool silu, const T* dy,
                              int64_t c, Count count, A* dsum) {
    const int64_t n = count;
    if (!silu) {
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) dsum[i] = static_cast<A>(dy[i]);
      return;
    }
    alignas(64) A sum[kStrip];
    weigh(taps, rows, c, count, sum);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const A s = vector_sigmoid(sum[i]);
      dsum[i] = static_cast<A>(dy[i]) * s * (1 + sum[i] * (1 - s));
    }
  }
};

// A halo on its way: rows that need none are convolved meanwhile.
template <class X, class Y>
void convolve_around(const Context& ctx, Work arrival, const SequencePlan& plan,
                     const RowHalo& halo, const TapRows<X>& rows, const Taps<Accumulator<Y>>& taps,
                     bool silu, const Tensor& y_TC) {
  const SplitRows split(plan.local_segments(), halo, taps.width, y_TC.dim(0));
  for (const RowRange& range : split.inner) convolve<X, Y>(ctx, rows, taps, silu, range, y_TC);
  arrival.wait();
  for (const RowRange& range : split.edge) convolve<X, Y>(ctx, rows, taps, silu, range, y_TC);
}

struct ShortConvolutionNode final : Node {
  struct Saved {
    Tensor x_TC, halo_RC, weight_CW, bias_C;
    bool silu;
    SequencePlan plan;
  } saved;
  Group sp;

  ShortConvolutionNode(Saved kept, Group group) : saved(std::move(kept)), sp(std::move(group)) {}

  const char* name() const override { return "short_convolution"; }

  void backward(Context& ctx) override {
    dispatch_floating(saved.x_TC.dtype(), [&](auto tag) { backward_of<decltype(tag)>(ctx); });
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x_TC", saved.x_TC);
    visit("halo_RC", saved.halo_RC);
    visit("weight_CW", saved.weight_CW);
    if (saved.bias_C.defined()) visit("bias_C", saved.bias_C);
  }

 private:
  template <class T>
  void backward_of(Context& ctx);
};

template <class T>
void ShortConvolutionNode::backward_of(Context& ctx) {
  using A = Accumulator<T>;
  const SequencePlan& plan = saved.plan;
  const int64_t C = saved.weight_CW.dim(0), W = saved.weight_CW.dim(1);
  Taps<A> taps(ctx, saved.weight_CW, saved.bias_C);
  const RowHalo before(plan, W - 1, HaloSide::kBefore);
  const Tensor zero_C = ctx.zeros({C}, DTypeOf<T>::value);
  const SumGradients<T> gradients(
      ctx, TapRows<T>(plan.local_segments(), before, W, saved.x_TC, saved.halo_RC, zero_C), taps,
      saved.silu, grad_output(ctx).contiguous());

  if (input(0)) {
    // A row counts in the sums of the W - 1 rows behind it, which ranks behind may hold.
    const RowHalo behind(plan, W - 1, HaloSide::kBehind);
    const Tensor halo_RC = ctx.empty({behind.num_rows(), C}, DTypeOf<A>::value);
    Work arrival =
        W > 1 ? behind.exchange(sp, "convolution.bwd", gradients.dsum_TC, halo_RC) : Work();
    const Tensor zeros = ctx.zeros({C}, DTypeOf<A>::value);
    const TapRows<A> rows(plan.local_segments(), behind, W, gradients.dsum_TC, halo_RC, zeros);
    const Tensor dx_TC = ctx.empty(saved.x_TC.shape(), saved.x_TC.dtype());
    taps.bias = nullptr;  // it has no part in the transpose
    convolve_around<A, T>(ctx, std::move(arrival), plan, behind, rows, taps, false, dx_TC);
    input(0)->add(ctx, dx_TC);
  }
  if (input(1)) {
    const Tensor dweight_CW = ctx.empty({C, W}, DTypeOf<A>::value);
    for (int64_t d = 0; d < W; ++d)
      for (int64_t c = 0; c < C; ++c)
        dweight_CW.data<A>()[c * W + W - 1 - d] = gradients.dtaps_DC.template data<A>()[d * C + c];
    input(1)->add(ctx, dweight_CW);
  }
  if (input(2)) input(2)->add(ctx, gradients.dtaps_DC.slice(0, W, 1).reshape({C}).clone());
}

void check_shapes(const ShortConvolutionInput& input, const SequencePlan& plan) {
  const Tensor &x = input.x_TC.value(), &weight = input.weight_CW.value();
  LONGSHIP_CHECK(x.rank() == 2 && x.dim(0) == plan.num_local_tokens() && is_floating(x.dtype()),
                 "short convolution of {} {} for {} local tokens", dtype_name(x.dtype()),
                 shape_string(x.shape()), plan.num_local_tokens());
  LONGSHIP_CHECK(weight.rank() == 2 && weight.dim(0) == x.dim(1) && weight.dim(1) >= 1 &&
                     weight.dim(1) <= kMaxWidth && is_floating(weight.dtype()),
                 "weights {} {} of a short convolution over {} channels, at most {} wide",
                 dtype_name(weight.dtype()), shape_string(weight.shape()), x.dim(1), kMaxWidth);
  if (input.bias_C.defined())
    LONGSHIP_CHECK(input.bias_C.shape() == Shape{x.dim(1)} && is_floating(input.bias_C.dtype()),
                   "bias {} {} of a short convolution over {} channels",
                   dtype_name(input.bias_C.dtype()), shape_string(input.bias_C.shape()), x.dim(1));
}

}  // namespace

Variable short_convolution(Context& ctx, const Group& sp, const ShortConvolutionInput& input,
                           const SequencePlan& plan) {
  check_plan_matches(plan, sp);
  check_shapes(input, plan);
  const Tensor x_TC = input.x_TC.value().contiguous(), &weight_CW = input.weight_CW.value();
  const Tensor bias_C = input.bias_C.defined() ? input.bias_C.value() : Tensor();
  const int64_t C = weight_CW.dim(0), W = weight_CW.dim(1);
  const RowHalo halo(plan, W - 1, HaloSide::kBefore);
  const Tensor halo_RC = ctx.empty({halo.num_rows(), C}, x_TC.dtype());
  Work arrival = W > 1 ? halo.exchange(sp, "convolution.fwd", x_TC, halo_RC) : Work();
  const Tensor y_TC = ctx.empty(x_TC.shape(), x_TC.dtype());
  const Tensor zero_C = ctx.zeros({C}, x_TC.dtype());
  dispatch_floating(x_TC.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const Taps<Accumulator<T>> taps(ctx, weight_CW, bias_C);
    const TapRows<T> rows(plan.local_segments(), halo, W, x_TC, halo_RC, zero_C);
    convolve_around<T, T>(ctx, std::move(arrival), plan, halo, rows, taps, input.silu, y_TC);
  });

  std::unique_ptr<ShortConvolutionNode> node;
  if (is_recording(ctx, {&input.x_TC, &input.weight_CW, &input.bias_C}))
    node = std::make_unique<ShortConvolutionNode>(
        ShortConvolutionNode::Saved{x_TC, halo_RC, weight_CW, bias_C, input.silu, plan}, sp);
  return record(ctx, "short_convolution", y_TC, std::move(node),
                {&input.x_TC, &input.weight_CW, &input.bias_C});
}

}  // namespace longship
