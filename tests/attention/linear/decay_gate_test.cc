#include "attention/linear/decay_gate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::OpFunction;
using testing::random_tensor;

constexpr double kLowerBound = -5, kNormalizer = 16;
constexpr StepLimits kLimits{.low = 0.3, .high = 2};

OpFunction softplus_law() {
  return [](Context& ctx, const std::vector<Variable>& in) -> std::vector<Variable> {
    return {softplus_decay(ctx, {.a_TF = in[0], .A_log_H = in[1], .dt_bias_F = in[2]})};
  };
}
OpFunction bounded_law() {
  return [](Context& ctx, const std::vector<Variable>& in) -> std::vector<Variable> {
    return {bounded_decay(ctx, {.a_TF = in[0], .A_log_H = in[1], .dt_bias_F = in[2]}, kLowerBound)};
  };
}
OpFunction step_law() {
  return [](Context& ctx, const std::vector<Variable>& in) -> std::vector<Variable> {
    return {step_size(ctx, in[0], in[1])};
  };
}
OpFunction limited_softplus_law() {
  return [](Context& ctx, const std::vector<Variable>& in) -> std::vector<Variable> {
    return {softplus_decay(ctx, {.a_TF = in[0], .A_log_H = in[1], .dt_bias_F = in[2]}, kLimits)};
  };
}
OpFunction limited_step_law() {
  return [](Context& ctx, const std::vector<Variable>& in) -> std::vector<Variable> {
    return {step_size(ctx, in[0], in[1], kLimits)};
  };
}
OpFunction log_sigmoid_law() {
  return [](Context& ctx, const std::vector<Variable>& in) -> std::vector<Variable> {
    return {log_sigmoid_decay(ctx, in[0], kNormalizer)};
  };
}
OpFunction write_law() {
  return [](Context& ctx, const std::vector<Variable>& in) -> std::vector<Variable> {
    return {write_strength(ctx, in[0], 2)};
  };
}

// Projections, rates of H heads, biases of H K gates.
std::vector<Tensor> inputs(Context& ctx, int64_t T, int64_t H, int64_t K) {
  return {random_tensor(ctx, {T, H * K}, 1, 3.0), random_tensor(ctx, {H}, 2),
          random_tensor(ctx, {H * K}, 3)};
}

struct Case {
  OpFunction op;
  std::vector<Tensor> inputs;
};

std::vector<Case> cases(Context& ctx, int64_t T, int64_t H, int64_t K) {
  const std::vector<Tensor> all = inputs(ctx, T, H, K);
  return {{softplus_law(), all},
          {bounded_law(), all},
          {step_law(), {all[0], all[2]}},
          {limited_softplus_law(), all},
          {limited_step_law(), {all[0], all[2]}},
          {log_sigmoid_law(), {all[0]}},
          {write_law(), {all[0]}}};
}

TEST(DecayGate, EqualsItsFormulas) {
  Context ctx;
  for (int64_t K : {1, 3}) {
    const int64_t T = 5, H = 4, F = H * K;
    const std::vector<Tensor> in = inputs(ctx, T, H, K);
    const std::vector<Variable> variables(in.begin(), in.end());
    const Tensor softplus = softplus_law()(ctx, variables)[0].value();
    const Tensor bounded = bounded_law()(ctx, variables)[0].value();
    const Tensor step = step_law()(ctx, {variables[0], variables[2]})[0].value();
    const Tensor limited = limited_softplus_law()(ctx, variables)[0].value();
    const Tensor limited_step = limited_step_law()(ctx, {variables[0], variables[2]})[0].value();
    int64_t num_below = 0, num_above = 0;
    const Tensor log_sigmoid = log_sigmoid_law()(ctx, {variables[0]})[0].value();
    const Tensor write = write_law()(ctx, {variables[0]})[0].value();
    for (int64_t i = 0; i < T * F; ++i) {
      const double a = in[0].data<double>()[i];
      const double u = a + in[2].data<double>()[i % F];
      const double rate = std::exp(in[1].data<double>()[i % F / K]);
      const double dt = std::log(1 + std::exp(u));
      EXPECT_NEAR(softplus.data<double>()[i], -rate * dt, 1e-13 * (1 + rate * dt));
      EXPECT_NEAR(bounded.data<double>()[i], kLowerBound / (1 + std::exp(-rate * u)), 1e-13);
      EXPECT_NEAR(step.data<double>()[i], dt, 1e-13);
      const double held = std::min(std::max(dt, kLimits.low), kLimits.high);
      EXPECT_NEAR(limited.data<double>()[i], -rate * held, 1e-13 * (1 + rate * held));
      EXPECT_NEAR(limited_step.data<double>()[i], held, 1e-13);
      num_below += dt < kLimits.low;
      num_above += dt > kLimits.high;
      EXPECT_NEAR(log_sigmoid.data<double>()[i], -std::log(1 + std::exp(-a)) / 16, 1e-13);
      EXPECT_NEAR(write.data<double>()[i], 2 / (1 + std::exp(-a)), 1e-13);
    }
    EXPECT_GT(num_below, 1);
    EXPECT_GT(num_above, 1);
    EXPECT_LT(num_below + num_above, T * F - 1);
  }
}

TEST(DecayGate, GradientsAreCentralDifferences) {
  Context ctx;
  for (int64_t K : {1, 3})
    for (const Case& c : cases(ctx, 6, 2, K)) testing::check_gradients(c.op, c.inputs);
}

TEST(DecayGate, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (int64_t T : {0, 1, 150})
    for (const Case& c : cases(ctx, T, 3, 17)) {
      testing::check_precision(c.op, c.inputs);
      testing::check_thread_invariance(c.op, c.inputs);
    }
}

TEST(DecayGate, OfBf16TokensIsInFp32) {
  Context ctx;
  const Tensor a = random_tensor(ctx, {3, 2}, 1).to(DType::kBF16);
  EXPECT_EQ(log_sigmoid_decay(ctx, a, 16).dtype(), DType::kF32);
  EXPECT_EQ(write_strength(ctx, a, 1).dtype(), DType::kF32);
  EXPECT_EQ(step_size(ctx, a, ctx.zeros({2}, DType::kF32)).dtype(), DType::kF32);
}

// Decays of -5 and of -1e-4 a token, from projections that are far out.
TEST(DecayGate, IsRelativelyPreciseForStrongAndWeakDecays) {
  Context ctx;
  const float values[] = {-80, -30, -9.21029f, 5, 88, 1e4f};
  const Tensor a = Tensor::from<float>(ctx.memory, {6, 1}, values);
  const Tensor zero = ctx.zeros({1}, DType::kF32);
  const Tensor g = softplus_decay(ctx, {.a_TF = a, .A_log_H = zero, .dt_bias_F = zero}).value();
  for (int64_t i = 0; i < 6; ++i) {
    const double x = static_cast<double>(values[i]);
    const double exact = -(x > 40 ? x : std::log1p(std::exp(x)));
    EXPECT_NEAR(static_cast<double>(g.data<float>()[i]) / exact, 1, 6e-7) << x;
  }
}

}  // namespace
}  // namespace longship
