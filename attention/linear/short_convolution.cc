#include "attention/linear/short_convolution.h"

#include "attention/linear/convolution_passes.h"
#include "parallel/attention_shape.h"

namespace longship {
namespace {

// Local rows that need a halo, and the runs of rows between them that do not.
struct SplitRows {
  std::vector<RowRange> inner, edge;

  SplitRows(std::span<const Segment> segments, const RowHalo& halo, int64_t width,
            int64_t num_tokens) {
    int64_t next = 0;
    auto add_edge = [&](int64_t begin, int64_t end) {
      if (next < begin) inner.push_back({next, begin - next});
      if (begin < end) edge.push_back({begin, end - begin});
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

// Halos on their way: rows that need none are convolved meanwhile.
template <class X, class Y>
void convolve_around(const Context& ctx, Work arrival, const SequencePlan& plan,
                     const RowHalo& halo, const std::vector<Convolution<X, Y>>& convolutions) {
  const SplitRows split(plan.local_segments(), halo, convolutions[0].taps.width,
                        plan.num_local_tokens());
  auto compute = [&](const std::vector<RowRange>& ranges) {
    for (const Convolution<X, Y>& convolution : convolutions)
      for (const RowRange& range : ranges) convolution.compute(ctx, range);
  };
  compute(split.inner);
  arrival.wait();
  compute(split.edge);
}

// Starts the exchange of all inputs; one token wide, a kernel needs none.
Work exchange(const Group& sp, const RowHalo& halo, int64_t width, std::string_view label,
              const TensorRows& x, const TensorRows& halos) {
  return width > 1 ? halo.exchange(sp, label, x, halos) : Work();
}

// What is kept of one input.
struct Convolved {
  Tensor x_TC, halo_RC, weight_CW, bias_C;
  bool silu;

  int64_t width() const { return weight_CW.dim(1); }

  template <class T>
  ConvolutionTaps<Accumulator<T>> taps(const Context& ctx) const {
    return {ctx, weight_CW, bias_C, silu};
  }
};

// A row of zeros for the widest of the inputs.
Tensor zero_row(const Context& ctx, const std::vector<Convolved>& inputs, DType dtype) {
  int64_t num_channels = 0;
  for (const Convolved& input : inputs) num_channels = std::max(num_channels, input.x_TC.dim(1));
  return ctx.zeros({num_channels}, dtype);
}

struct ShortConvolutionNode final : Node {
  // Inputs of the node: x, weight and bias of each.
  struct Saved {
    std::vector<Convolved> inputs;
    SequencePlan plan;
  } saved;
  Group sp;

  ShortConvolutionNode(Saved kept, Group group) : saved(std::move(kept)), sp(std::move(group)) {}

  const char* name() const override { return "short_convolution"; }

  void backward(Context& ctx) override {
    dispatch_floating(saved.inputs[0].x_TC.dtype(),
                      [&](auto tag) { backward_of<decltype(tag)>(ctx); });
  }

  void visit_saved(const SavedVisitor& visit) override {
    for (Convolved& input : saved.inputs) {
      visit("x_TC", input.x_TC);
      visit("halo_RC", input.halo_RC);
      visit("weight_CW", input.weight_CW);
      if (input.bias_C.defined()) visit("bias_C", input.bias_C);
    }
  }

 private:
  template <class T>
  void backward_of(Context& ctx);

  // dtaps_DC as ConvolutionGradients has them.
  template <class A>
  void add_tap_gradients(Context& ctx, size_t i, const Tensor& dtaps_DC) {
    const int64_t C = dtaps_DC.dim(1), W = dtaps_DC.dim(0) - 1;
    if (input(3 * i + 1)) {
      const Tensor dweight_CW = ctx.empty({C, W}, DTypeOf<A>::value);
      for (int64_t d = 0; d < W; ++d)
        for (int64_t c = 0; c < C; ++c)
          dweight_CW.data<A>()[c * W + W - 1 - d] = dtaps_DC.data<A>()[d * C + c];
      input(3 * i + 1)->add(ctx, dweight_CW);
    }
    if (input(3 * i + 2)) input(3 * i + 2)->add(ctx, dtaps_DC.slice(0, W, 1).reshape({C}).clone());
  }
};

template <class T>
void ShortConvolutionNode::backward_of(Context& ctx) {
  using A = Accumulator<T>;
  const SequencePlan& plan = saved.plan;
  const int64_t W = saved.inputs[0].width();
  const RowHalo before(plan, W - 1, HaloSide::kBefore);
  const Tensor no_x_C = zero_row(ctx, saved.inputs, DTypeOf<T>::value);
  std::vector<size_t> wanted;  // the inputs whose x wants a gradient
  TensorRows dsums;            // of those
  for (size_t i = 0; i < saved.inputs.size(); ++i) {
    const Convolved& one = saved.inputs[i];
    const ConvolutionGradients<T> gradients(
        ctx, TapRows<T>(plan.local_segments(), before, W, one.x_TC, one.halo_RC, no_x_C),
        one.taps<T>(ctx), grad_output(ctx, i).contiguous());
    add_tap_gradients<A>(ctx, i, gradients.dtaps_DC);
    if (!input(3 * i)) continue;
    wanted.push_back(i);
    dsums.push_back(gradients.dsum_TC);
  }
  if (wanted.empty()) return;

  // A row counts in the sums of the W - 1 rows behind it, which ranks behind may hold.
  const RowHalo behind(plan, W - 1, HaloSide::kBehind);
  const TensorRows halos = empty_like(ctx, dsums, behind.num_rows());
  Work arrival = exchange(sp, behind, W, "convolution.bwd", dsums, halos);
  const Tensor no_dsum_C = zero_row(ctx, saved.inputs, DTypeOf<A>::value);
  std::vector<Convolution<A, T>> transposes;
  for (size_t n = 0; n < wanted.size(); ++n) {
    const Convolved& one = saved.inputs[wanted[n]];
    transposes.push_back(
        {.rows = TapRows<A>(plan.local_segments(), behind, W, dsums[n], halos[n], no_dsum_C),
         .taps = one.taps<T>(ctx).transposed(),
         .y_TC = ctx.empty(one.x_TC.shape(), one.x_TC.dtype())});
  }
  convolve_around(ctx, std::move(arrival), plan, behind, transposes);
  for (size_t n = 0; n < wanted.size(); ++n) input(3 * wanted[n])->add(ctx, transposes[n].y_TC);
}

// y of each input, whose halos are on their way.
template <class T>
std::vector<Tensor> convolve(const Context& ctx, Work arrival, const SequencePlan& plan,
                             const RowHalo& halo, const std::vector<Convolved>& inputs) {
  const Tensor zero_C = zero_row(ctx, inputs, DTypeOf<T>::value);
  std::vector<Convolution<T, T>> convolutions;
  std::vector<Tensor> y_TC;
  for (const Convolved& one : inputs) {
    y_TC.push_back(ctx.empty(one.x_TC.shape(), one.x_TC.dtype()));
    convolutions.push_back({.rows = TapRows<T>(plan.local_segments(), halo, one.width(), one.x_TC,
                                               one.halo_RC, zero_C),
                            .taps = one.taps<T>(ctx),
                            .y_TC = y_TC.back()});
  }
  convolve_around(ctx, std::move(arrival), plan, halo, convolutions);
  return y_TC;
}

void check_shapes(const ShortConvolutionInput& input, const SequencePlan& plan) {
  const Tensor &x = input.x_TC.value(), &weight = input.weight_CW.value();
  LONGSHIP_CHECK(x.rank() == 2 && x.dim(0) == plan.num_local_tokens() && is_floating(x.dtype()),
                 "short convolution of {} {} for {} local tokens", dtype_name(x.dtype()),
                 shape_string(x.shape()), plan.num_local_tokens());
  LONGSHIP_CHECK(weight.rank() == 2 && weight.dim(0) == x.dim(1) && weight.dim(1) >= 1 &&
                     weight.dim(1) <= kMaxConvolutionWidth && is_floating(weight.dtype()),
                 "weights {} {} of a short convolution over {} channels, at most {} wide",
                 dtype_name(weight.dtype()), shape_string(weight.shape()), x.dim(1),
                 kMaxConvolutionWidth);
  if (input.bias_C.defined())
    LONGSHIP_CHECK(input.bias_C.shape() == Shape{x.dim(1)} && is_floating(input.bias_C.dtype()),
                   "bias {} {} of a short convolution over {} channels",
                   dtype_name(input.bias_C.dtype()), shape_string(input.bias_C.shape()), x.dim(1));
}

void check_alike(const std::vector<ShortConvolutionInput>& inputs) {
  LONGSHIP_CHECK(!inputs.empty(), "short convolution of nothing");
  for (const ShortConvolutionInput& input : inputs)
    LONGSHIP_CHECK(input.x_TC.dtype() == inputs[0].x_TC.dtype() &&
                       input.weight_CW.dim(1) == inputs[0].weight_CW.dim(1),
                   "one short convolution of {} and {}, {} and {} wide",
                   dtype_name(inputs[0].x_TC.dtype()), dtype_name(input.x_TC.dtype()),
                   inputs[0].weight_CW.dim(1), input.weight_CW.dim(1));
}

}  // namespace

std::vector<Variable> short_convolution(Context& ctx, const Group& sp,
                                        const std::vector<ShortConvolutionInput>& inputs,
                                        const SequencePlan& plan) {
  check_plan_matches(plan, sp);
  for (const ShortConvolutionInput& input : inputs) check_shapes(input, plan);
  check_alike(inputs);
  const int64_t W = inputs[0].weight_CW.dim(1);
  TensorRows x;
  for (const ShortConvolutionInput& input : inputs) x.push_back(input.x_TC.value().contiguous());
  const RowHalo halo(plan, W - 1, HaloSide::kBefore);
  const TensorRows halos = empty_like(ctx, x, halo.num_rows());
  Work arrival = exchange(sp, halo, W, "convolution.fwd", x, halos);

  std::vector<Convolved> kept;
  std::vector<Variable> variables;
  bool recording = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ShortConvolutionInput& input = inputs[i];
    kept.push_back({x[i], halos[i], input.weight_CW.value(), input.bias_C.value(), input.silu});
    variables.insert(variables.end(), {input.x_TC, input.weight_CW, input.bias_C});
    recording |= is_recording(ctx, {&input.x_TC, &input.weight_CW, &input.bias_C});
  }
  std::vector<Tensor> y_TC;
  dispatch_floating(x[0].dtype(), [&](auto tag) {
    y_TC = convolve<decltype(tag)>(ctx, std::move(arrival), plan, halo, kept);
  });
  std::unique_ptr<ShortConvolutionNode> node;
  if (recording)
    node = std::make_unique<ShortConvolutionNode>(
        ShortConvolutionNode::Saved{std::move(kept), plan}, sp);
  return record(ctx, "short_convolution", std::move(y_TC), std::move(node), variables);
}

}  // namespace longship
