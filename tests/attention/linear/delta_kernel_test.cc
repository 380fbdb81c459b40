// The chunked delta rule against its plain recurrence and adjoint in fp64
// (tests/support/naive_linear.h). Shapes as in attention/linear/linear_kernel.h.
#include "attention/linear/delta_kernel.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/linear/delta_problem.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_linear.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::expect_error;
using testing::naive_linear;
using testing::NaiveLinear;
using testing::random_tensor;
using testing::relative_rms;

constexpr int64_t C = DeltaProblem::kChunkSize;
const DeltaKernel kKernel;

enum class Gate { kNone, kConstant, kScalar, kVector };
constexpr Gate kAllGates[] = {Gate::kNone, Gate::kConstant, Gate::kScalar, Gate::kVector};

struct Settings {
  int64_t G = 1, H = 2, K = 8, V = 8;
  Gate gate = Gate::kScalar;
  double strongest_gate = -0.5, weakest_gate = 0;
  double max_beta = 1;
};

// Runs of documents with what enters and what is asked back.
struct Problem {
  LinearInput input;
  std::vector<Segment> segments;
  Tensor states_NHKV, do_THV, dstates_NHKV;
};

struct Result {
  AffineSummary summary, backward_summary;
  Tensor o_THV;
  LinearGradients gradients;
};

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

// One segment per length; the second of every three continues the document of the one before.
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

Problem make_problem(Context& ctx, const std::vector<int64_t>& lengths, const Settings& s,
                     DType dtype) {
  Problem problem;
  problem.segments = segments_of(lengths);
  int64_t T = 0;
  for (int64_t length : lengths) T += length;
  const DType sums = accumulator_dtype(dtype);
  auto round = [&](const Tensor& x) { return x.to(DType::kBF16).to(dtype); };
  auto gates = [&](Shape shape) {
    return spread_tensor(ctx, std::move(shape), 5, s.strongest_gate, s.weakest_gate).to(sums);
  };
  problem.input = {.q_TGK = round(random_tensor(ctx, {T, s.G, s.K}, 1)),
                   .k_TGK = round(unit_rows(ctx, {T, s.G, s.K}, 2)),
                   .v_THV = round(random_tensor(ctx, {T, s.H, s.V}, 3)),
                   .gate = s.gate == Gate::kNone       ? Tensor()
                           : s.gate == Gate::kConstant ? gates({s.H})
                           : s.gate == Gate::kScalar   ? gates({T, s.H})
                                                       : gates({T, s.H, s.K}),
                   .beta_TH = spread_tensor(ctx, {T, s.H}, 4, 0, s.max_beta).to(sums),
                   .scale = 1 / std::sqrt(static_cast<double>(s.K))};
  const Shape states{static_cast<int64_t>(lengths.size()), s.H, s.K, s.V};
  problem.states_NHKV = random_tensor(ctx, states, 6).to(DType::kF32).to(sums);
  problem.do_THV = round(random_tensor(ctx, {T, s.H, s.V}, 7));
  problem.dstates_NHKV = random_tensor(ctx, states, 8).to(DType::kF32).to(sums);
  return problem;
}

Result run(Context& ctx, const Problem& p) {
  Result result;
  const std::unique_ptr<LinearForward> forward = kKernel.forward(ctx, p.input, p.segments);
  result.summary = forward->summary(ctx);
  forward->intra(ctx);
  result.o_THV = forward->outputs(ctx, p.states_NHKV);
  const std::unique_ptr<LinearBackward> backward =
      kKernel.backward(ctx, p.input, p.segments, p.states_NHKV, p.do_THV);
  result.backward_summary = backward->summary(ctx);
  backward->intra(ctx);
  result.gradients = backward->gradients(ctx, p.dstates_NHKV);
  return result;
}

// m x + b, or m^T x + b, for the [K, V] matrices of one segment.
Tensor apply(Context& ctx, const AffineSummary& summary, const Tensor& x_NHKV, int64_t segment,
             bool transposed) {
  const Tensor m = summary.m.slice(0, segment, 1).contiguous().to(DType::kF64),
               x = x_NHKV.slice(0, segment, 1).contiguous().to(DType::kF64),
               sum = summary.b_NHKV.slice(0, segment, 1).clone().to(DType::kF64);
  const int64_t H = x.dim(1), K = x.dim(2), V = x.dim(3);
  const Tensor out = ctx.zeros(sum.shape(), DType::kF64);
  out.copy_from(sum);
  for (int64_t h = 0; h < H; ++h)
    for (int64_t d = 0; d < K; ++d)
      for (int64_t e = 0; e < K; ++e)
        for (int64_t j = 0; j < V; ++j)
          out.data<double>()[(h * K + d) * V + j] +=
              m.data<double>()[transposed ? (h * K + e) * K + d : (h * K + d) * K + e] *
              x.data<double>()[(h * K + e) * V + j];
  return out;
}

// ||a - b|| over the norm of `scale`, or over 1 if that is larger.
double rms_error(const Tensor& a, const Tensor& b, const Tensor& scale) {
  const Tensor x = a.to(DType::kF64), y = b.to(DType::kF64), z = scale.to(DType::kF64);
  double difference = 0, squares = 1;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double error = x.data<double>()[i] - y.data<double>()[i];
    difference += error * error;
    squares += z.data<double>()[i] * z.data<double>()[i];
  }
  return std::sqrt(difference / squares);
}

struct Bounds {
  double o = 1e-12, gradient = 1e-12, dgate = 1e-11;
};
constexpr Bounds kF32Bounds{.o = 2e-6, .gradient = 3e-6, .dgate = 1e-5};

void expect_equal_to_recurrence(Context& ctx, const Problem& p, const Bounds& bounds) {
  const Result found = run(ctx, p);
  const NaiveLinear expected = naive_linear(
      ctx, p.input, p.segments,
      {.states_NHKV = p.states_NHKV, .do_THV = p.do_THV, .dstates_NHKV = p.dstates_NHKV});
  EXPECT_LE(relative_rms(found.o_THV, expected.o_THV), bounds.o) << "o";
  const LinearGradients &f = found.gradients, &e = expected.gradients;
  EXPECT_LE(relative_rms(f.dq_TGK, e.dq_TGK), bounds.gradient) << "dq";
  EXPECT_LE(relative_rms(f.dk_TGK, e.dk_TGK), bounds.gradient) << "dk";
  EXPECT_LE(relative_rms(f.dv_THV, e.dv_THV), bounds.gradient) << "dv";
  EXPECT_LE(relative_rms(f.dbeta_TH, e.dbeta_TH), bounds.gradient) << "dbeta";
  EXPECT_EQ(f.dgate.defined(), e.dgate.defined());
  if (e.dgate.defined()) {
    EXPECT_LE(relative_rms(f.dgate, e.dgate), bounds.dgate) << "dgate";
  }
  for (size_t n = 0; n < p.segments.size(); ++n) {
    if (p.segments[n].position == 0) continue;
    const int64_t segment = static_cast<int64_t>(n);
    auto of = [&](const Tensor& x) { return x.slice(0, segment, 1).contiguous(); };
    // Strong writes forget a state by cancellation, so errors are measured by the size of what
    // enters.
    EXPECT_LE(rms_error(apply(ctx, found.summary, p.states_NHKV, segment, false),
                        of(expected.states_NHKV), of(p.states_NHKV)),
              bounds.o)
        << "S_out of segment " << n;
    EXPECT_LE(rms_error(apply(ctx, found.backward_summary, p.dstates_NHKV, segment, true),
                        of(expected.dstates_NHKV), of(p.dstates_NHKV)),
              bounds.gradient)
        << "dS_in of segment " << n;
    EXPECT_LE(rms_error(of(found.backward_summary.m), of(found.summary.m), of(found.summary.m)),
              bounds.o)
        << "M of segment " << n;
  }
}

void expect_equal_to_recurrence(const std::vector<int64_t>& lengths, const Settings& settings,
                                const Bounds& f32_bounds = kF32Bounds) {
  Context ctx;
  ctx.num_threads = 2;
  for (DType dtype : {DType::kF64, DType::kF32}) {
    SCOPED_TRACE(fmt::format("gate {}, G {}, H {}, K {}, V {}, {}", static_cast<int>(settings.gate),
                             settings.G, settings.H, settings.K, settings.V, dtype_name(dtype)));
    expect_equal_to_recurrence(ctx, make_problem(ctx, lengths, settings, dtype),
                               dtype == DType::kF64 ? Bounds{} : f32_bounds);
  }
}

TEST(DeltaKernel, EqualsTheRecurrenceForEveryLengthAndStart) {
  for (Gate gate : kAllGates)
    expect_equal_to_recurrence({1, 2, C - 1, C, C + 1, 3 * C + 7, 5, 10 * C + 3},
                               {.K = 6, .V = 5, .gate = gate});
}

TEST(DeltaKernel, EqualsTheRecurrenceForEveryHeadSize) {
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1},    {3, 40},    {33, 17}, {64, 64},
                                               {96, 192}, {128, 128}, {256, 64}};
  for (const auto& [K, V] : sizes)
    for (Gate gate : {Gate::kNone, Gate::kScalar, Gate::kVector})
      expect_equal_to_recurrence({20, C + 9}, {.G = 1, .H = 1, .K = K, .V = V, .gate = gate});
}

TEST(DeltaKernel, SumsTheGradientsOfHeadsThatShareKeys) {
  for (Gate gate : {Gate::kScalar, Gate::kVector}) {
    expect_equal_to_recurrence({70, 9}, {.G = 2, .H = 6, .K = 5, .V = 3, .gate = gate});
    expect_equal_to_recurrence({70, 9}, {.G = 3, .H = 3, .K = 5, .V = 3, .gate = gate});
  }
}

TEST(DeltaKernel, HoldsForBetaUpToTwo) {
  for (Gate gate : kAllGates)
    expect_equal_to_recurrence({150, 90}, {.K = 16, .gate = gate, .max_beta = 2});
}

TEST(DeltaKernel, HoldsForExtremeGates) {
  for (Gate gate : {Gate::kConstant, Gate::kScalar, Gate::kVector}) {
    expect_equal_to_recurrence(
        {150, 90},
        {.K = 16, .gate = gate, .strongest_gate = -5, .weakest_gate = -5, .max_beta = 2});
    expect_equal_to_recurrence(
        {150, 90}, {.K = 16, .gate = gate, .strongest_gate = -5, .weakest_gate = -1e-4});
    expect_equal_to_recurrence(
        {150, 90}, {.K = 16, .gate = gate, .strongest_gate = -1e-4, .weakest_gate = -1e-4});
  }
}

TEST(DeltaKernel, HoldsForKeysAndBetasOfZero) {
  Context ctx;
  for (Gate gate : kAllGates) {
    const Problem p = make_problem(ctx, {80, 70}, {.gate = gate}, DType::kF32);
    for (int64_t t = 0; t < 150; t += 3)
      for (int64_t d = 0; d < 8; ++d) p.input.k_TGK.data<float>()[t * 8 + d] = t % 2 ? 0 : 1e-20f;
    for (int64_t t = 0; t < 150; t += 5) p.input.beta_TH.data<float>()[t * 2] = 0;
    expect_equal_to_recurrence(ctx, p, kF32Bounds);
  }
}

TEST(DeltaKernel, RoundsOnlyItsOutputsForBf16) {
  Context ctx;
  for (Gate gate : kAllGates) {
    const Problem p = make_problem(ctx, {100, 70}, {.K = 16, .gate = gate}, DType::kBF16);
    expect_equal_to_recurrence(ctx, p, {.o = 3e-3, .gradient = 3e-6, .dgate = 1e-5});
  }
}

TEST(DeltaKernel, ComposesSegmentsBySummaries) {
  constexpr int64_t kLength = 3 * C + 7, H = 2, K = 8, V = 8;
  Context ctx;
  const Problem whole = make_problem(ctx, {kLength}, {}, DType::kF64);
  for (int64_t cut : {int64_t{1}, C - 1, C, C + 1, kLength - 1}) {
    SCOPED_TRACE(fmt::format("cut at {}", cut));
    Problem p = whole, parts = whole;
    p.states_NHKV = ctx.zeros({1, H, K, V}, DType::kF64);
    p.dstates_NHKV = ctx.zeros({1, H, K, V}, DType::kF64);
    const Result expected = run(ctx, p);

    parts.segments = {{.length = cut}, {.position = cut, .length = kLength - cut, .slot = cut}};
    parts.states_NHKV = ctx.zeros({2, H, K, V}, DType::kF64);
    parts.dstates_NHKV = ctx.zeros({2, H, K, V}, DType::kF64);
    const Result alone = run(ctx, parts);
    parts.states_NHKV.slice(0, 1, 1).copy_from(alone.summary.b_NHKV.slice(0, 0, 1));
    const std::unique_ptr<LinearBackward> backward =
        kKernel.backward(ctx, parts.input, parts.segments, parts.states_NHKV, parts.do_THV);
    parts.dstates_NHKV.slice(0, 0, 1).copy_from(backward->summary(ctx).b_NHKV.slice(0, 1, 1));
    const Result found = run(ctx, parts);
    EXPECT_LE(relative_rms(found.o_THV, expected.o_THV), 1e-13);
    EXPECT_LE(relative_rms(found.gradients.dq_TGK, expected.gradients.dq_TGK), 1e-13);
    EXPECT_LE(relative_rms(found.gradients.dk_TGK, expected.gradients.dk_TGK), 1e-13);
    EXPECT_LE(relative_rms(found.gradients.dv_THV, expected.gradients.dv_THV), 1e-13);
    EXPECT_LE(relative_rms(found.gradients.dgate, expected.gradients.dgate), 1e-12);
    EXPECT_LE(relative_rms(found.gradients.dbeta_TH, expected.gradients.dbeta_TH), 1e-13);
    if (cut == C) {
      // The same chunks and the same state: the same bits.
      EXPECT_TRUE(bitwise_equal(found.o_THV, expected.o_THV));
      EXPECT_TRUE(bitwise_equal(found.gradients.dk_TGK, expected.gradients.dk_TGK));
      EXPECT_TRUE(bitwise_equal(found.gradients.dgate, expected.gradients.dgate));
    }
  }
}

TEST(DeltaKernel, GivesTheSameBitsOnAnyNumberOfThreads) {
  for (Gate gate : {Gate::kNone, Gate::kScalar, Gate::kVector}) {
    Context ctx;
    const Problem p = make_problem(ctx, {3 * C + 7, 50, 1},
                                   {.G = 1, .H = 3, .K = 24, .V = 40, .gate = gate}, DType::kF32);
    const Result expected = run(ctx, p);
    for (int num_threads : {2, 3, 7}) {
      ctx.num_threads = num_threads;
      const Result found = run(ctx, p);
      const LinearGradients &f = found.gradients, &e = expected.gradients;
      EXPECT_TRUE(bitwise_equal(found.o_THV, expected.o_THV)) << num_threads;
      EXPECT_TRUE(bitwise_equal(found.summary.m, expected.summary.m)) << num_threads;
      EXPECT_TRUE(bitwise_equal(found.summary.b_NHKV, expected.summary.b_NHKV)) << num_threads;
      EXPECT_TRUE(bitwise_equal(found.backward_summary.b_NHKV, expected.backward_summary.b_NHKV))
          << num_threads;
      EXPECT_TRUE(bitwise_equal(f.dq_TGK, e.dq_TGK)) << num_threads;
      EXPECT_TRUE(bitwise_equal(f.dk_TGK, e.dk_TGK)) << num_threads;
      EXPECT_TRUE(bitwise_equal(f.dv_THV, e.dv_THV)) << num_threads;
      EXPECT_TRUE(bitwise_equal(f.dbeta_TH, e.dbeta_TH)) << num_threads;
      if (e.dgate.defined()) {
        EXPECT_TRUE(bitwise_equal(f.dgate, e.dgate)) << num_threads;
      }
    }
  }
}

TEST(DeltaKernel, AcceptsARankWithoutTokens) {
  Context ctx;
  const Result result = run(ctx, make_problem(ctx, {}, {.gate = Gate::kVector}, DType::kF32));
  EXPECT_EQ(result.o_THV.shape(), (Shape{0, 2, 8}));
  EXPECT_EQ(result.summary.m.shape(), (Shape{0, 2, 8, 8}));
  EXPECT_EQ(result.gradients.dgate.shape(), (Shape{0, 2, 8}));
}

TEST(DeltaKernel, RefusesTensorsThatDoNotFit) {
  Context ctx;
  const Problem good = make_problem(ctx, {9}, {}, DType::kF32);
  auto refuses = [&](auto&& change, const char* text) {
    Problem p = good;
    change(p);
    expect_error(ErrorCode::kInternal, {text}, [&] { kKernel.forward(ctx, p.input, p.segments); });
  };
  refuses([&](Problem& p) { p.input.beta_TH = Tensor(); }, "beta");
  refuses([&](Problem& p) { p.input.gate = ctx.zeros({9, 3}, DType::kF32); }, "gate");
  refuses([&](Problem& p) { p.input.gate = ctx.zeros({9, 2}, DType::kF64); }, "gate");
  refuses([&](Problem& p) { p.input.k_TGK = ctx.zeros({9, 1, 7}, DType::kF32); }, "k must be");
  refuses([&](Problem& p) { p.segments[0].length = 8; }, "segments");
}

}  // namespace
}  // namespace longship
