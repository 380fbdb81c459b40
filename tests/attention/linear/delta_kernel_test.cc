// What is particular to the chunked delta rule; linear_kernel_test.cc has the rest.
#include "attention/linear/delta_kernel.h"

#include <gtest/gtest.h>

#include "tests/support/linear_kernel_check.h"

namespace longship {
namespace {

using testing::Gate;
using testing::kAllGates;
using testing::kF32Bounds;
using testing::LinearCase;

const DeltaKernel kKernel;
const testing::LinearKernelCheck kCheck(kKernel, true);

TEST(DeltaKernel, HoldsForBetaUpToTwo) {
  for (Gate gate : kAllGates)
    kCheck.expect_equal_to_recurrence({150, 90}, {.K = 16, .gate = gate, .max_beta = 2});
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

}  // namespace
}  // namespace longship
