// The chunked delta rule against its plain recurrence and adjoint in fp64
// (tests/support/naive_linear.h). Shapes as in attention/linear/linear_kernel.h.
#include "attention/linear/delta_kernel.h"

#include <gtest/gtest.h>

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

constexpr int64_t C = LinearProblem::kChunkSize;
const DeltaKernel kKernel;
const testing::LinearKernelCheck kCheck(kKernel, true);

TEST(DeltaKernel, EqualsTheRecurrenceForEveryLengthAndStart) {
  for (Gate gate : kAllGates)
    kCheck.expect_equal_to_recurrence({1, 2, C - 1, C, C + 1, 3 * C + 7, 5, 10 * C + 3},
                                      {.K = 6, .V = 5, .gate = gate});
}

TEST(DeltaKernel, EqualsTheRecurrenceForEveryHeadSize) {
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1},    {3, 40},    {33, 17}, {64, 64},
                                               {96, 192}, {128, 128}, {256, 64}};
  for (const auto& [K, V] : sizes)
    for (Gate gate : {Gate::kNone, Gate::kScalar, Gate::kVector})
      kCheck.expect_equal_to_recurrence({20, C + 9},
                                        {.G = 1, .H = 1, .K = K, .V = V, .gate = gate});
}

TEST(DeltaKernel, SumsTheGradientsOfHeadsThatShareKeys) {
  for (Gate gate : {Gate::kScalar, Gate::kVector}) {
    kCheck.expect_equal_to_recurrence({70, 9}, {.G = 2, .H = 6, .K = 5, .V = 3, .gate = gate});
    kCheck.expect_equal_to_recurrence({70, 9}, {.G = 3, .H = 3, .K = 5, .V = 3, .gate = gate});
  }
}

TEST(DeltaKernel, HoldsForBetaUpToTwo) {
  for (Gate gate : kAllGates)
    kCheck.expect_equal_to_recurrence({150, 90}, {.K = 16, .gate = gate, .max_beta = 2});
}

TEST(DeltaKernel, HoldsForGatesOfAnyStrengthWithinAChunk) {
  for (Gate gate : {Gate::kScalar, Gate::kVector})
    for (double strongest : {-1.0, -2.0, -4.0, -12.0})
      kCheck.expect_equal_to_recurrence({150, 90}, {.K = 16,
                                                    .gate = gate,
                                                    .strongest_gate = strongest,
                                                    .weakest_gate = -1e-4,
                                                    .max_beta = 2});
}

TEST(DeltaKernel, HoldsForExtremeGates) {
  for (Gate gate : {Gate::kConstant, Gate::kScalar, Gate::kVector}) {
    kCheck.expect_equal_to_recurrence(
        {150, 90},
        {.K = 16, .gate = gate, .strongest_gate = -5, .weakest_gate = -5, .max_beta = 2});
    kCheck.expect_equal_to_recurrence(
        {150, 90}, {.K = 16, .gate = gate, .strongest_gate = -5, .weakest_gate = -1e-4});
    kCheck.expect_equal_to_recurrence(
        {150, 90}, {.K = 16, .gate = gate, .strongest_gate = -1e-4, .weakest_gate = -1e-4});
  }
}

TEST(DeltaKernel, HoldsForKeysAndBetasOfZero) {
  Context ctx;
  for (Gate gate : kAllGates) {
    const LinearCase p = kCheck.make_case(ctx, {80, 70}, {.gate = gate}, DType::kF32);
    for (int64_t t = 0; t < 150; t += 3)
      for (int64_t d = 0; d < 8; ++d) p.input.k_TGK.data<float>()[t * 8 + d] = t % 2 ? 0 : 1e-20f;
    for (int64_t t = 0; t < 150; t += 5) p.input.beta_TH.data<float>()[t * 2] = 0;
    kCheck.expect_equal_to_recurrence(ctx, p, kF32Bounds);
  }
}

TEST(DeltaKernel, RoundsOnlyItsOutputsForBf16) {
  Context ctx;
  for (Gate gate : kAllGates) {
    const LinearCase p = kCheck.make_case(ctx, {100, 70}, {.K = 16, .gate = gate}, DType::kBF16);
    kCheck.expect_equal_to_recurrence(ctx, p, {.o = 3e-3, .gradient = 3e-6, .dgate = 1e-5});
  }
}

TEST(DeltaKernel, ComposesSegmentsBySummaries) {
  kCheck.expect_segments_compose({}, C);
}

TEST(DeltaKernel, GivesTheSameBitsOnAnyNumberOfThreads) {
  for (Gate gate : {Gate::kNone, Gate::kScalar, Gate::kVector})
    kCheck.expect_same_bits_on_any_number_of_threads(
        {3 * C + 7, 50, 1, 21 * C + 3}, {.G = 1, .H = 3, .K = 24, .V = 40, .gate = gate});
}

TEST(DeltaKernel, AcceptsARankWithoutTokens) {
  Context ctx;
  const LinearResult result =
      kCheck.run(ctx, kCheck.make_case(ctx, {}, {.gate = Gate::kVector}, DType::kF32));
  EXPECT_EQ(result.o_THV.shape(), (Shape{0, 2, 8}));
  EXPECT_EQ(result.summary.m.shape(), (Shape{0, 2, 8, 8}));
  EXPECT_EQ(result.gradients.dgate.shape(), (Shape{0, 2, 8}));
}

TEST(DeltaKernel, RefusesTensorsThatDoNotFit) {
  Context ctx;
  const LinearCase good = kCheck.make_case(ctx, {9}, {}, DType::kF32);
  auto refuses = [&](auto&& change, const char* text) {
    LinearCase p = good;
    change(p);
    expect_error(ErrorCode::kInternal, {text},
                 [&] { kKernel.forward(ctx, p.input, p.segments, p.cut); });
  };
  refuses([&](LinearCase& p) { p.input.beta_TH = Tensor(); }, "beta");
  refuses([&](LinearCase& p) { p.input.gate = ctx.zeros({9, 3}, DType::kF32); }, "gate");
  refuses([&](LinearCase& p) { p.input.gate = ctx.zeros({9, 2}, DType::kF64); }, "gate");
  refuses([&](LinearCase& p) { p.input.k_TGK = ctx.zeros({9, 1, 7}, DType::kF32); }, "k must be");
  refuses([&](LinearCase& p) { p.segments[0].length = 8; }, "segments");
  refuses([&](LinearCase& p) { p.cut = {1}; }, "cut segment 1 of 1");
  refuses([&](LinearCase& p) { p.cut = {0, 0}; }, "cut segment");
}

TEST(DeltaKernel, KeepsStatesOfCutSegmentsOnly) {
  for (Gate gate : kAllGates) kCheck.expect_only_cut_segments_have_states({.gate = gate});
  kCheck.expect_little_memory_for_short_documents();
}

}  // namespace
}  // namespace longship
