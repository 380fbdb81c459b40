// The oracle's adjoint against central differences of its own forward.
#include "tests/support/naive_linear.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"

namespace longship::testing {
namespace {

double inner_product(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  return sum;
}

// Gates of the given shape in [-0.7, 0).
Tensor random_gates(Context& ctx, const Shape& shape) {
  Tensor gate = random_tensor(ctx, shape, 7, 0.3);
  for (int64_t i = 0; i < gate.numel(); ++i) {
    double& g = gate.data<double>()[i];
    g = -std::abs(g);
  }
  return gate;
}

// Gradients of <o, do> + <S_out, dS_out>, all of them, for two documents and a second segment that
// starts inside its document.
void check_adjoint(const Shape& gate_shape, bool is_delta) {
  constexpr int64_t T = 7, G = 1, H = 2, K = 3, V = 2;
  Context ctx;
  const std::vector<Segment> segments = {{.document = 0, .length = 4, .slot = 0},
                                         {.document = 1, .position = 5, .length = 3, .slot = 4}};
  const LinearInput input{.q_TGK = random_tensor(ctx, {T, G, K}, 1),
                          .k_TGK = random_tensor(ctx, {T, G, K}, 2, 0.6),
                          .v_THV = random_tensor(ctx, {T, H, V}, 3),
                          .gate = gate_shape.empty() ? Tensor() : random_gates(ctx, gate_shape),
                          .beta_TH = is_delta ? random_tensor(ctx, {T, H}, 4) : Tensor(),
                          .scale = 0.7};
  const NaiveLinearBorders borders{.states_NHKV = random_tensor(ctx, {2, H, K, V}, 5),
                                   .do_THV = random_tensor(ctx, {T, H, V}, 6),
                                   .dstates_NHKV = random_tensor(ctx, {2, H, K, V}, 8)};
  const NaiveLinear result = naive_linear(ctx, input, segments, borders);
  auto loss = [&] {
    const NaiveLinear again = naive_linear(ctx, input, segments, borders);
    return inner_product(again.o_THV, borders.do_THV) +
           inner_product(again.states_NHKV, borders.dstates_NHKV);
  };
  auto check = [&](const char* name, const Tensor& x, const Tensor& gradient) {
    if (!gradient.defined()) return;
    for (int64_t i = 0; i < x.numel(); ++i) {
      constexpr double kStep = 1e-5;
      double& value = x.data<double>()[i];
      const double kept = value;
      value = kept + kStep;
      const double above = loss();
      value = kept - kStep;
      const double below = loss();
      value = kept;
      EXPECT_NEAR(gradient.data<double>()[i], (above - below) / (2 * kStep), 1e-7)
          << name << " element " << i;
    }
  };
  check("q", input.q_TGK, result.gradients.dq_TGK);
  check("k", input.k_TGK, result.gradients.dk_TGK);
  check("v", input.v_THV, result.gradients.dv_THV);
  check("gate", input.gate, result.gradients.dgate);
  check("beta", input.beta_TH, result.gradients.dbeta_TH);
  check("state", borders.states_NHKV, result.dstates_NHKV);
}

TEST(NaiveLinear, AdjointEqualsCentralDifferencesOfTheDeltaRule) {
  check_adjoint({}, true);
  check_adjoint({7, 2}, true);
  check_adjoint({7, 2, 3}, true);
}

TEST(NaiveLinear, AdjointEqualsCentralDifferencesOfDecay) {
  check_adjoint({}, false);
  check_adjoint({2}, false);
  check_adjoint({7, 2}, false);
  check_adjoint({7, 2, 3}, false);
}

}  // namespace
}  // namespace longship::testing
