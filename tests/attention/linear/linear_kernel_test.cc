// What the chunked kernels with and without the delta rule have in common: against their plain
// recurrence and its adjoint in fp64 (tests/support/naive_linear.h). Shapes as in
// attention/linear/linear_kernel.h.
#include "attention/linear/linear_kernel.h"

#include <gtest/gtest.h>

#include "attention/linear/decay_kernel.h"
#include "attention/linear/delta_kernel.h"
#include "attention/linear/linear_problem.h"
#include "tests/support/expect_error.h"
#include "tests/support/linear_kernel_check.h"

namespace longship {
namespace {

using testing::Gate;
using testing::kAllGates;
using testing::LinearCase;
using testing::LinearResult;

constexpr int64_t C = LinearProblem::kChunkSize;

template <class Kernel>
class LinearKernels : public ::testing::Test {
 protected:
  static constexpr bool kHasBeta = std::is_same_v<Kernel, DeltaKernel>;

  const Kernel kernel_;
  const testing::LinearKernelCheck check_{kernel_, kHasBeta};
};

struct KernelName {
  template <class Kernel>
  static std::string GetName(int) {
    return std::is_same_v<Kernel, DeltaKernel> ? "Delta" : "Decay";
  }
};
using AllKernels = ::testing::Types<DecayKernel, DeltaKernel>;
TYPED_TEST_SUITE(LinearKernels, AllKernels, KernelName);

TYPED_TEST(LinearKernels, EqualTheRecurrenceForEveryLengthAndStart) {
  for (Gate gate : kAllGates)
    this->check_.expect_equal_to_recurrence({1, 2, C - 1, C, C + 1, 3 * C + 7, 5, 10 * C + 3},
                                            {.K = 6, .V = 5, .gate = gate});
}

TYPED_TEST(LinearKernels, EqualTheRecurrenceForEveryHeadSize) {
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1},    {3, 40},    {33, 17}, {64, 64},
                                               {96, 192}, {128, 128}, {273, 64}};
  for (const auto& [K, V] : sizes)
    for (Gate gate : {Gate::kNone, Gate::kScalar, Gate::kVector})
      this->check_.expect_equal_to_recurrence({20, C + 9},
                                              {.G = 1, .H = 1, .K = K, .V = V, .gate = gate});
}

TYPED_TEST(LinearKernels, SumTheGradientsOfHeadsThatShareKeys) {
  for (Gate gate : kAllGates)
    for (const auto& [G, H] : {std::pair<int64_t, int64_t>{2, 6}, {3, 3}})
      this->check_.expect_equal_to_recurrence({70, 9},
                                              {.G = G, .H = H, .K = 5, .V = 3, .gate = gate});
}

TYPED_TEST(LinearKernels, HoldForGatesOfAnyStrengthWithinAChunk) {
  for (Gate gate : {Gate::kScalar, Gate::kVector})
    for (double strongest : {-1.0, -2.0, -4.0, -12.0})
      this->check_.expect_equal_to_recurrence({150, 90}, {.K = 16,
                                                          .gate = gate,
                                                          .strongest_gate = strongest,
                                                          .weakest_gate = -1e-4,
                                                          .max_beta = 2});
}

TYPED_TEST(LinearKernels, HoldForExtremeGates) {
  for (Gate gate : {Gate::kConstant, Gate::kScalar, Gate::kVector})
    for (const auto& [strongest, weakest] :
         {std::pair{-5.0, -5.0}, std::pair{-5.0, -1e-4}, std::pair{-1e-4, -1e-4}})
      this->check_.expect_equal_to_recurrence({150, 90}, {.K = 16,
                                                          .gate = gate,
                                                          .strongest_gate = strongest,
                                                          .weakest_gate = weakest,
                                                          .max_beta = 2});
}

TYPED_TEST(LinearKernels, RoundOnlyTheirOutputsForBf16) {
  Context ctx;
  for (Gate gate : kAllGates) {
    const LinearCase c =
        this->check_.make_case(ctx, {100, 70}, {.K = 16, .gate = gate}, DType::kBF16);
    this->check_.expect_equal_to_recurrence(ctx, c, {.o = 3e-3, .gradient = 3e-6, .dgate = 1e-5});
  }
}

TYPED_TEST(LinearKernels, ComposeSegmentsBySummaries) {
  for (Gate gate : kAllGates) this->check_.expect_segments_compose({.gate = gate}, C);
}

TYPED_TEST(LinearKernels, GiveTheSameBitsOnAnyNumberOfThreads) {
  for (Gate gate : kAllGates)
    this->check_.expect_same_bits_on_any_number_of_threads(
        {3 * C + 7, 50, 1, 21 * C + 3}, {.G = 1, .H = 3, .K = 24, .V = 40, .gate = gate});
}

TYPED_TEST(LinearKernels, AcceptARankWithoutTokens) {
  Context ctx;
  const LinearResult result =
      this->check_.run(ctx, this->check_.make_case(ctx, {}, {.gate = Gate::kVector}, DType::kF32));
  EXPECT_EQ(result.o_THV.shape(), (Shape{0, 2, 8}));
  EXPECT_EQ(result.summary.m.shape(), this->kHasBeta ? (Shape{0, 2, 8, 8}) : (Shape{0, 2, 8}));
  EXPECT_EQ(result.gradients.dgate.shape(), (Shape{0, 2, 8}));
}

TYPED_TEST(LinearKernels, KeepStatesOfCutSegmentsOnly) {
  for (Gate gate : kAllGates) this->check_.expect_only_cut_segments_have_states({.gate = gate});
  this->check_.expect_little_memory_for_short_documents();
}

TYPED_TEST(LinearKernels, RefuseWhatDoesNotFit) {
  Context ctx;
  const LinearCase good = this->check_.make_case(ctx, {9}, {}, DType::kF32);
  auto refuses = [&](auto&& change, const char* text) {
    LinearCase c = good;
    change(c);
    testing::expect_error(ErrorCode::kInternal, {text},
                          [&] { this->kernel_.forward(ctx, c.input, c.segments, c.cut); });
  };
  const Tensor wrong_beta = this->kHasBeta ? Tensor() : ctx.zeros({9, 2}, DType::kF32);
  refuses([&](LinearCase& c) { c.input.beta_TH = wrong_beta; }, "beta");
  refuses([&](LinearCase& c) { c.input.gate = ctx.zeros({9, 3}, DType::kF32); }, "gate");
  refuses([&](LinearCase& c) { c.input.gate = ctx.zeros({9, 2}, DType::kF64); }, "gate");
  refuses([&](LinearCase& c) { c.input.k_TGK = ctx.zeros({9, 1, 7}, DType::kF32); }, "k must be");
  refuses([&](LinearCase& c) { c.input.v_THV = ctx.zeros({8, 2, 8}, DType::kF32); }, "v must be");
  refuses([&](LinearCase& c) { c.segments[0].length = 8; }, "segments");
  refuses([&](LinearCase& c) { c.cut = {1}; }, "cut segment 1 of 1");
  refuses([&](LinearCase& c) { c.cut = {0, 0}; }, "cut segment");
}

}  // namespace
}  // namespace longship
