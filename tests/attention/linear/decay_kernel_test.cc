// What is particular to chunked linear attention without the delta rule; linear_kernel_test.cc has
// the rest.
#include "attention/linear/decay_kernel.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/linear_kernel_check.h"

namespace longship {
namespace {

using testing::Gate;
using testing::kAllGates;
using testing::LinearCase;
using testing::LinearSettings;

const DecayKernel kKernel;
const testing::LinearKernelCheck kCheck(kKernel, false);

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

}  // namespace
}  // namespace longship
