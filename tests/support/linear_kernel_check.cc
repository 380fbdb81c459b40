#include "tests/support/linear_kernel_check.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/naive_linear.h"
#include "tests/support/op_check.h"

namespace longship::testing {
namespace {

// Numbers in [low, high], the same in every dtype.
Tensor spread_tensor(Context& ctx, Shape shape, uint64_t seed, double low, double high) {
  Tensor x = random_tensor(ctx, std::move(shape), seed);
  for (int64_t i = 0; i < x.numel(); ++i) {
    double& value = x.data<double>()[i];
    value = low + (high - low) * 0.5 * std::erfc(value / std::sqrt(2.0));
  }
  return x.to(DType::kF32);
}

// Rows of length 1 up to rounding.
Tensor unit_rows(Context& ctx, const Shape& shape, uint64_t seed) {
  Tensor x = random_tensor(ctx, shape, seed);
  const int64_t size = shape.back();
  for (int64_t row = 0; row < x.numel() / size; ++row) {
    double* values = x.data<double>() + row * size;
    double squares = 0;
    for (int64_t d = 0; d < size; ++d) squares += values[d] * values[d];
    for (int64_t d = 0; d < size; ++d) values[d] /= std::sqrt(squares);
  }
  return x;
}

std::vector<Segment> segments_of(const std::vector<int64_t>& lengths) {
  std::vector<Segment> segments;
  int64_t slot = 0;
  for (size_t n = 0; n < lengths.size(); slot += lengths[n++])
    segments.push_back({.document = static_cast<int64_t>(n),
                        .position = n % 3 == 1 ? 37 + static_cast<int64_t>(n) : 0,
                        .length = lengths[n],
                        .slot = slot});
  return segments;
}

// Row d of M, or of M^T, times x [K, V], element (d, j), for head `h` of one segment's m.
double transformed(const AffineSummary& summary, const Tensor& m, const double* x, int64_t h,
                   int64_t d, int64_t j, bool transposed) {
  const int64_t K = summary.b_NHKV.dim(2), V = summary.b_NHKV.dim(3);
  switch (summary.transition) {
    case Transition::kIdentity:
      return x[d * V + j];
    case Transition::kScalar:
      return m.data<double>()[h] * x[d * V + j];
    case Transition::kDiagonal:
      return m.data<double>()[h * K + d] * x[d * V + j];
    case Transition::kDense:
      break;
  }
  double sum = 0;
  for (int64_t e = 0; e < K; ++e)
    sum += m.data<double>()[transposed ? (h * K + e) * K + d : (h * K + d) * K + e] * x[e * V + j];
  return sum;
}

Tensor segment_of(const Tensor& x, int64_t segment) {
  return x.slice(0, segment, 1).contiguous();
}

// m x + b, or m^T x + b, for the [K, V] matrices of one segment.
Tensor apply(Context& ctx, const AffineSummary& summary, const Tensor& x_NHKV, int64_t segment,
             bool transposed) {
  const Tensor m = summary.m.defined() ? segment_of(summary.m, segment).to(DType::kF64) : Tensor();
  const Tensor x = segment_of(x_NHKV, segment).to(DType::kF64);
  const int64_t H = x.dim(1), K = x.dim(2), V = x.dim(3);
  const Tensor out = ctx.zeros(x.shape(), DType::kF64);
  out.copy_from(segment_of(summary.b_NHKV, segment).to(DType::kF64));
  for (int64_t h = 0; h < H; ++h)
    for (int64_t d = 0; d < K; ++d)
      for (int64_t j = 0; j < V; ++j)
        out.data<double>()[(h * K + d) * V + j] +=
            transformed(summary, m, x.data<double>() + h * K * V, h, d, j, transposed);
  return out;
}

// ||a - b|| over the norm of `scale`, or over 1 if that is larger.
double rms_error(const Tensor& a, const Tensor& b, const Tensor& scale) {
  const Tensor x = a.to(DType::kF64), y = b.to(DType::kF64), z = scale.to(DType::kF64);
  double difference = 0, squares = 1;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double error = x.data<double>()[i] - y.data<double>()[i];
    difference += error * error;
  }
  for (int64_t i = 0; i < z.numel(); ++i) squares += z.data<double>()[i] * z.data<double>()[i];
  return std::sqrt(difference / squares);
}

struct NamedPair {
  const char* name;
  Tensor found, expected;
};

std::vector<NamedPair> gradient_pairs(const LinearGradients& found,
                                      const LinearGradients& expected) {
  return {{"dq", found.dq_TGK, expected.dq_TGK},
          {"dk", found.dk_TGK, expected.dk_TGK},
          {"dv", found.dv_THV, expected.dv_THV},
          {"dgate", found.dgate, expected.dgate},
          {"dbeta", found.dbeta_TH, expected.dbeta_TH}};
}

void expect_gradients_near(const LinearGradients& found, const LinearGradients& expected,
                           const LinearBounds& bounds) {
  for (const NamedPair& pair : gradient_pairs(found, expected)) {
    SCOPED_TRACE(pair.name);
    ASSERT_EQ(pair.found.defined(), pair.expected.defined());
    if (!pair.found.defined()) continue;
    EXPECT_LE(relative_rms(pair.found, pair.expected),
              pair.name == std::string("dgate") ? bounds.dgate : bounds.gradient);
  }
}

void expect_same_bits(const LinearResult& found, const LinearResult& expected) {
  std::vector<NamedPair> pairs = gradient_pairs(found.gradients, expected.gradients);
  pairs.push_back({"o", found.o_THV, expected.o_THV});
  pairs.push_back({"M", found.summary.m, expected.summary.m});
  pairs.push_back({"B", found.summary.b_NHKV, expected.summary.b_NHKV});
  pairs.push_back({"R", found.backward_summary.b_NHKV, expected.backward_summary.b_NHKV});
  for (const NamedPair& pair : pairs) {
    ASSERT_EQ(pair.found.defined(), pair.expected.defined()) << pair.name;
    if (pair.found.defined()) {
      EXPECT_TRUE(bitwise_equal(pair.found, pair.expected)) << pair.name;
    }
  }
}

}  // namespace

LinearCase LinearKernelCheck::make_case(Context& ctx, const std::vector<int64_t>& lengths,
                                        const LinearSettings& s, DType dtype) const {
  LinearCase c;
  c.segments = segments_of(lengths);
  for (size_t n = 0; n < lengths.size(); ++n) c.cut.push_back(static_cast<int64_t>(n));
  int64_t T = 0;
  for (int64_t length : lengths) T += length;
  const DType sums = accumulator_dtype(dtype);
  auto round = [&](const Tensor& x) { return x.to(DType::kBF16).to(dtype); };
  auto gates = [&](Shape shape) {
    return spread_tensor(ctx, std::move(shape), 5, s.strongest_gate, s.weakest_gate).to(sums);
  };
  c.input = {
      .q_TGK = round(random_tensor(ctx, {T, s.G, s.K}, 1)),
      .k_TGK = round(unit_rows(ctx, {T, s.G, s.K}, 2)),
      .v_THV = round(random_tensor(ctx, {T, s.H, s.V}, 3)),
      .gate = s.gate == Gate::kNone       ? Tensor()
              : s.gate == Gate::kConstant ? gates({s.H})
              : s.gate == Gate::kScalar   ? gates({T, s.H})
                                          : gates({T, s.H, s.K}),
      .beta_TH = has_beta_ ? spread_tensor(ctx, {T, s.H}, 4, 0, s.max_beta).to(sums) : Tensor(),
      .scale = 1 / std::sqrt(static_cast<double>(s.K))};
  const Shape states{static_cast<int64_t>(lengths.size()), s.H, s.K, s.V};
  c.states_NHKV = random_tensor(ctx, states, 6).to(DType::kF32).to(sums);
  c.do_THV = round(random_tensor(ctx, {T, s.H, s.V}, 7));
  c.dstates_NHKV = random_tensor(ctx, states, 8).to(DType::kF32).to(sums);
  return c;
}

// Every cut segment by itself.
Tensor walk(const Context& ctx, SegmentMaps& maps, const Tensor& in_NHKV) {
  const Tensor out_NHKV = maps.zero_states(ctx);
  const Shape state(in_NHKV.shape().begin() + 1, in_NHKV.shape().end());
  for (int64_t row = 0; row < in_NHKV.dim(0); ++row)
    maps.walk(ctx, row, in_NHKV.slice(0, row, 1).reshape(state),
              out_NHKV.slice(0, row, 1).reshape(state));
  return out_NHKV;
}

LinearResult LinearKernelCheck::run(Context& ctx, const LinearCase& c) const {
  LinearResult result;
  const std::unique_ptr<LinearForward> forward = kernel_.forward(ctx, c.input, c.segments, c.cut);
  result.summary = forward->summary(ctx);
  result.walked_NHKV = walk(ctx, *forward, c.states_NHKV);
  forward->intra(ctx);
  result.o_THV = forward->outputs(ctx, c.states_NHKV);
  const std::unique_ptr<LinearBackward> backward =
      kernel_.backward(ctx, c.input, c.segments, c.cut, c.states_NHKV, c.do_THV);
  result.backward_summary = backward->summary(ctx);
  result.walked_back_NHKV = walk(ctx, *backward, c.dstates_NHKV);
  backward->intra(ctx);
  result.gradients = backward->gradients(ctx, c.dstates_NHKV);
  return result;
}

void LinearKernelCheck::expect_equal_to_recurrence(Context& ctx, const LinearCase& c,
                                                   const LinearBounds& bounds) const {
  const LinearResult found = run(ctx, c);
  const NaiveLinear expected = naive_linear(
      ctx, c.input, c.segments,
      {.states_NHKV = c.states_NHKV, .do_THV = c.do_THV, .dstates_NHKV = c.dstates_NHKV});
  EXPECT_LE(relative_rms(found.o_THV, expected.o_THV), bounds.o) << "o";
  expect_gradients_near(found.gradients, expected.gradients, bounds);
  for (size_t n = 0; n < c.segments.size(); ++n) {
    if (c.segments[n].position == 0) continue;
    const int64_t segment = static_cast<int64_t>(n);
    auto of = [&](const Tensor& x) { return segment_of(x, segment); };
    // Strong writes forget a state by cancellation, so errors are measured by the size of what
    // enters.
    EXPECT_LE(rms_error(apply(ctx, found.summary, c.states_NHKV, segment, false),
                        of(expected.states_NHKV), of(c.states_NHKV)),
              bounds.o)
        << "S_out of segment " << n;
    EXPECT_LE(rms_error(apply(ctx, found.backward_summary, c.dstates_NHKV, segment, true),
                        of(expected.dstates_NHKV), of(c.dstates_NHKV)),
              bounds.gradient)
        << "dS_in of segment " << n;
    EXPECT_LE(rms_error(of(found.walked_NHKV), of(expected.states_NHKV), of(c.states_NHKV)),
              bounds.o)
        << "S_out of a walk through segment " << n;
    EXPECT_LE(rms_error(of(found.walked_back_NHKV), of(expected.dstates_NHKV), of(c.dstates_NHKV)),
              bounds.gradient)
        << "dS_in of a walk through segment " << n;
    ASSERT_EQ(found.backward_summary.transition, found.summary.transition);
    if (!found.summary.m.defined()) continue;
    EXPECT_LE(rms_error(of(found.backward_summary.m), of(found.summary.m), of(found.summary.m)),
              bounds.o)
        << "M of segment " << n;
  }
}

void LinearKernelCheck::expect_equal_to_recurrence(const std::vector<int64_t>& lengths,
                                                   const LinearSettings& s) const {
  Context ctx;
  ctx.num_threads = 2;
  for (DType dtype : {DType::kF64, DType::kF32}) {
    SCOPED_TRACE(fmt::format("gate {}, G {}, H {}, K {}, V {}, {}", static_cast<int>(s.gate), s.G,
                             s.H, s.K, s.V, dtype_name(dtype)));
    expect_equal_to_recurrence(ctx, make_case(ctx, lengths, s, dtype),
                               dtype == DType::kF64 ? LinearBounds{} : kF32Bounds);
  }
}

void LinearKernelCheck::expect_segments_compose(const LinearSettings& settings,
                                                int64_t chunk_size) const {
  const int64_t length = 3 * chunk_size + 7;
  Context ctx;
  const LinearCase whole = make_case(ctx, {length}, settings, DType::kF64);
  const Shape state{1, settings.H, settings.K, settings.V};
  const Shape states{2, settings.H, settings.K, settings.V};
  for (int64_t cut : {int64_t{1}, chunk_size - 1, chunk_size, chunk_size + 1, length - 1}) {
    SCOPED_TRACE(fmt::format("gate {}, cut at {}", static_cast<int>(settings.gate), cut));
    LinearCase c = whole, parts = whole;
    c.states_NHKV = ctx.zeros(state, DType::kF64);
    c.dstates_NHKV = ctx.zeros(state, DType::kF64);
    const LinearResult expected = run(ctx, c);

    parts.segments = {{.length = cut}, {.position = cut, .length = length - cut, .slot = cut}};
    parts.cut = {0, 1};
    parts.states_NHKV = ctx.zeros(states, DType::kF64);
    parts.dstates_NHKV = ctx.zeros(states, DType::kF64);
    const LinearResult alone = run(ctx, parts);
    parts.states_NHKV.slice(0, 1, 1).copy_from(alone.summary.b_NHKV.slice(0, 0, 1));
    const std::unique_ptr<LinearBackward> backward = kernel_.backward(
        ctx, parts.input, parts.segments, parts.cut, parts.states_NHKV, parts.do_THV);
    parts.dstates_NHKV.slice(0, 0, 1).copy_from(backward->summary(ctx).b_NHKV.slice(0, 1, 1));
    const LinearResult found = run(ctx, parts);
    EXPECT_LE(relative_rms(found.o_THV, expected.o_THV), 1e-13);
    expect_gradients_near(found.gradients, expected.gradients, {.gradient = 1e-13, .dgate = 1e-12});
    if (cut == chunk_size) {
      EXPECT_TRUE(bitwise_equal(found.o_THV, expected.o_THV));
      for (const NamedPair& pair : gradient_pairs(found.gradients, expected.gradients))
        if (pair.found.defined()) {
          EXPECT_TRUE(bitwise_equal(pair.found, pair.expected)) << pair.name;
        }
    }
  }
}

void LinearKernelCheck::expect_only_cut_segments_have_states(const LinearSettings& settings) const {
  Context ctx;
  // Segments 1 and 4 continue a document; all others receive zeros, as if they had a row of them.
  const LinearCase all = make_case(ctx, {70, 65, 1, 3, 600, 9}, settings, DType::kF32);
  LinearCase some = all;
  some.cut = {1, 4};
  auto rows_of_cut = [&](const Tensor& states) {
    Shape shape = states.shape();
    shape[0] = 2;
    const Tensor rows = ctx.empty(shape, states.dtype());
    for (int64_t row = 0; row < 2; ++row)
      rows.slice(0, row, 1).copy_from(segment_of(states, some.cut[static_cast<size_t>(row)]));
    return rows;
  };
  some.states_NHKV = rows_of_cut(all.states_NHKV);
  some.dstates_NHKV = rows_of_cut(all.dstates_NHKV);
  for (int64_t n : {0, 2, 3, 5}) {
    all.states_NHKV.slice(0, n, 1).fill_zero();
    all.dstates_NHKV.slice(0, n, 1).fill_zero();
  }
  LinearResult expected = run(ctx, all);
  for (AffineSummary* summary : {&expected.summary, &expected.backward_summary}) {
    if (summary->m.defined()) summary->m = rows_of_cut(summary->m);
    summary->b_NHKV = rows_of_cut(summary->b_NHKV);
  }
  expect_same_bits(run(ctx, some), expected);
}

void LinearKernelCheck::expect_little_memory_for_short_documents() const {
  constexpr int64_t kDocuments = 4096;
  Context ctx;
  const LinearSettings settings{.G = 1, .H = 2, .K = 32, .V = 32};
  LinearCase c = make_case(ctx, std::vector<int64_t>(kDocuments, 1), settings, DType::kF32);
  for (Segment& segment : c.segments) segment.position = 0;
  c.cut = {};
  c.states_NHKV = c.dstates_NHKV = ctx.zeros({0, 2, 32, 32}, DType::kF32);
  ctx.memory->reset_peak();
  const int64_t before = ctx.memory->live_bytes();
  run(ctx, c);
  // A state of each document and head would be 32 MiB.
  EXPECT_LE(ctx.memory->peak_bytes() - before, 16 * c.input.v_THV.num_bytes());
}

void LinearKernelCheck::expect_same_bits_on_any_number_of_threads(
    const std::vector<int64_t>& lengths, const LinearSettings& settings) const {
  Context ctx;
  const LinearCase c = make_case(ctx, lengths, settings, DType::kF32);
  const LinearResult expected = run(ctx, c);
  for (int num_threads : {2, 3, 7}) {
    SCOPED_TRACE(fmt::format("{} threads", num_threads));
    ctx.num_threads = num_threads;
    expect_same_bits(run(ctx, c), expected);
  }
}

}  // namespace longship::testing
