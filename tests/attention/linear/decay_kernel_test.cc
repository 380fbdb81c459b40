// Chunked linear attention without the delta rule against its plain recurrence and adjoint in fp64
// (tests/support/naive_linear.h). Shapes as in attention/linear/linear_kernel.h.
#include "attention/linear/decay_kernel.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/linear/linear_problem.h"
#include "tests/support/expect_error.h"
#include "tests/support/linear_kernel_check.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::Gate;
using testing::kAllGates;
using testing::kF32Bounds;
using testing::LinearCase;
using testing::LinearResult;
using testing::LinearSettings;

constexpr int64_t C = LinearProblem::kChunkSize;
const DecayKernel kKernel;
const testing::LinearKernelCheck kCheck(kKernel, false);

TEST(DecayKernel, EqualsTheRecurrenceForEveryLengthAndStart) {
  for (Gate gate : kAllGates)
    kCheck.expect_equal_to_recurrence({1, 2, C - 1, C, C + 1, 3 * C + 7, 5, 10 * C + 3},
                                      {.K = 6, .V = 5, .gate = gate});
}

TEST(DecayKernel, EqualsTheRecurrenceForEveryHeadSize) {
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1},    {3, 40},    {33, 17}, {64, 64},
                                               {96, 192}, {128, 128}, {273, 64}};
  for (const auto& [K, V] : sizes)
    for (Gate gate : {Gate::kNone, Gate::kScalar, Gate::kVector})
      kCheck.expect_equal_to_recurrence({20, C + 9},
                                        {.G = 1, .H = 1, .K = K, .V = V, .gate = gate});
}

TEST(DecayKernel, SumsTheGradientsOfHeadsThatShareKeys) {
  for (Gate gate : kAllGates) {
    kCheck.expect_equal_to_recurrence({70, 9}, {.G = 2, .H = 6, .K = 5, .V = 3, .gate = gate});
    kCheck.expect_equal_to_recurrence({70, 9}, {.G = 3, .H = 3, .K = 5, .V = 3, .gate = gate});
  }
}

TEST(DecayKernel, HoldsForGatesOfAnyStrengthWithinAChunk) {
  for (Gate gate : {Gate::kScalar, Gate::kVector})
    for (double strongest : {-1.0, -2.0, -4.0, -12.0})
      kCheck.expect_equal_to_recurrence(
          {150, 90}, {.K = 16, .gate = gate, .strongest_gate = strongest, .weakest_gate = -1e-4});
}

TEST(DecayKernel, HoldsForExtremeGates) {
  for (Gate gate : {Gate::kConstant, Gate::kScalar, Gate::kVector})
    for (const auto& [strongest, weakest] :
         {std::pair{-5.0, -5.0}, std::pair{-5.0, -1e-4}, std::pair{-1e-4, -1e-4}})
      kCheck.expect_equal_to_recurrence(
          {150, 90}, {.K = 16, .gate = gate, .strongest_gate = strongest, .weakest_gate = weakest});
}

TEST(DecayKernel, GivesGatesOfTokensAloneInTheirDocumentNoGradient) {
  // q dq and k dk are equal there, and large; what is left after rounding must not remain.
  Context ctx;
  for (Gate gate : {Gate::kScalar, Gate::kVector}) {
    LinearCase c = kCheck.make_case(ctx, {1, 1, 1}, {.gate = gate}, DType::kF32);
    c.states_NHKV = ctx.zeros(c.states_NHKV.shape(), DType::kF32);
    const Tensor dgate = kCheck.run(ctx, c).gradients.dgate;
    for (int64_t i = 0; i < dgate.numel(); ++i) EXPECT_EQ(dgate.data<float>()[i], 0.0f);
  }
}

TEST(DecayKernel, RoundsOnlyItsOutputsForBf16) {
  Context ctx;
  for (Gate gate : kAllGates) {
    const LinearCase c = kCheck.make_case(ctx, {100, 70}, {.K = 16, .gate = gate}, DType::kBF16);
    kCheck.expect_equal_to_recurrence(ctx, c, {.o = 3e-3, .gradient = 3e-6, .dgate = 1e-5});
  }
}

TEST(DecayKernel, SummarisesASegmentByItsDecay) {
  Context ctx;
  const auto summary = [&](Gate gate) {
    const LinearSettings settings{
        .K = 5, .gate = gate, .strongest_gate = -0.25, .weakest_gate = -0.25};
    return kCheck.run(ctx, kCheck.make_case(ctx, {3, 4}, settings, DType::kF64)).summary;
  };
  EXPECT_EQ(summary(Gate::kNone).transition, Transition::kIdentity);
  EXPECT_FALSE(summary(Gate::kNone).m.defined());
  for (Gate gate : {Gate::kConstant, Gate::kScalar, Gate::kVector}) {
    const AffineSummary found = summary(gate);
    const bool is_vector = gate == Gate::kVector;
    EXPECT_EQ(found.transition, is_vector ? Transition::kDiagonal : Transition::kScalar);
    EXPECT_EQ(found.m.shape(), is_vector ? (Shape{2, 2, 5}) : (Shape{2, 2}));
    EXPECT_NEAR(found.m.data<double>()[found.m.numel() - 1], std::exp(-1.0), 1e-15);
  }
}

TEST(DecayKernel, ComposesSegmentsBySummaries) {
  for (Gate gate : kAllGates) kCheck.expect_segments_compose({.gate = gate}, C);
}

TEST(DecayKernel, GivesTheSameBitsOnAnyNumberOfThreads) {
  for (Gate gate : kAllGates)
    kCheck.expect_same_bits_on_any_number_of_threads(
        {3 * C + 7, 50, 1, 21 * C + 3}, {.G = 1, .H = 3, .K = 24, .V = 40, .gate = gate});
}

TEST(DecayKernel, AcceptsARankWithoutTokens) {
  Context ctx;
  const LinearResult result =
      kCheck.run(ctx, kCheck.make_case(ctx, {}, {.gate = Gate::kVector}, DType::kF32));
  EXPECT_EQ(result.o_THV.shape(), (Shape{0, 2, 8}));
  EXPECT_EQ(result.summary.m.shape(), (Shape{0, 2, 8}));
  EXPECT_EQ(result.gradients.dgate.shape(), (Shape{0, 2, 8}));
}

TEST(DecayKernel, RefusesTensorsThatDoNotFit) {
  Context ctx;
  const LinearCase good = kCheck.make_case(ctx, {9}, {}, DType::kF32);
  auto refuses = [&](auto&& change, const char* text) {
    LinearCase c = good;
    change(c);
    expect_error(ErrorCode::kInternal, {text},
                 [&] { kKernel.forward(ctx, c.input, c.segments, c.cut); });
  };
  refuses([&](LinearCase& c) { c.input.beta_TH = ctx.zeros({9, 2}, DType::kF32); }, "beta");
  refuses([&](LinearCase& c) { c.input.gate = ctx.zeros({9, 3}, DType::kF32); }, "gate");
  refuses([&](LinearCase& c) { c.input.v_THV = ctx.zeros({8, 2, 8}, DType::kF32); }, "v must be");
  refuses([&](LinearCase& c) { c.segments[0].length = 8; }, "segments");
  refuses([&](LinearCase& c) { c.cut = {1}; }, "cut segment 1 of 1");
  refuses([&](LinearCase& c) { c.cut = {0, 0}; }, "cut segment");
}

TEST(DecayKernel, KeepsStatesOfCutSegmentsOnly) {
  for (Gate gate : kAllGates) kCheck.expect_only_cut_segments_have_states({.gate = gate});
  kCheck.expect_little_memory_for_short_documents();
}

}  // namespace
}  // namespace longship
