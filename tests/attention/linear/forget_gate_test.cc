#include "attention/linear/forget_gate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

constexpr double kFloors[] = {0, 0.01, 0.5, 0.97};

testing::OpFunction op(double floor) {
  return [floor](Context& ctx, const std::vector<Variable>& in) -> std::vector<Variable> {
    const ForgetGate gate = forget_gate(ctx, in[0], floor);
    return {gate.log_decay, gate.key};
  };
}

TEST(ForgetGate, EqualsItsFormulas) {
  Context ctx;
  const Tensor a = random_tensor(ctx, {4, 3, 5}, 1, 4.0);
  for (double floor : kFloors) {
    const ForgetGate gate = forget_gate(ctx, a, floor);
    for (int64_t i = 0; i < a.numel(); ++i) {
      const double f = floor + (1 - floor) / (1 + std::exp(-a.data<double>()[i]));
      EXPECT_NEAR(gate.log_decay.value().data<double>()[i], std::log(f), 1e-13);
      EXPECT_NEAR(gate.key.value().data<double>()[i], 1 - f, 1e-14);
    }
  }
}

TEST(ForgetGate, GradientsAreCentralDifferences) {
  Context ctx;
  for (double floor : kFloors)
    testing::check_gradients(op(floor), {random_tensor(ctx, {6, 5}, 2, 3.0)});
}

TEST(ForgetGate, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (double floor : kFloors)
    for (int64_t T : {0, 1, 97}) {
      testing::check_precision(op(floor), {random_tensor(ctx, {T, 33}, 3, 3.0)});
      testing::check_thread_invariance(op(floor), {random_tensor(ctx, {T, 33}, 3, 3.0)});
    }
}

// In fp32 such a floor is 0, and sigmoid(a) may be 0 too.
TEST(ForgetGate, OfAFloorBelowTheLeastFloatIsThatWithoutAFloor) {
  Context ctx;
  const Tensor a = Tensor::from<float>(ctx.memory, {4}, std::vector<float>{-1e4f, -95, 0, 80});
  const testing::OpResult found = testing::run_op(op(1e-50), {a}, DType::kF32);
  const testing::OpResult expected = testing::run_op(op(0), {a}, DType::kF32);
  EXPECT_TRUE(testing::bitwise_equal(found.outputs[0], expected.outputs[0]));
  EXPECT_TRUE(testing::bitwise_equal(found.gradients[0], expected.gradients[0]));
}

TEST(ForgetGate, KeepsItsRelativePrecisionFarOut) {
  Context ctx;
  for (double floor : kFloors)
    for (float a : {-1e4f, -95.0f, -20.0f, 1.0f, 20.0f, 80.0f}) {
      const Tensor x = Tensor::from<float>(ctx.memory, {1}, std::vector<float>{a});
      const testing::OpResult result = testing::run_op(op(floor), {x}, DType::kF32);
      const long double wide =
          static_cast<long double>(x.to(DType::kBF16).to(DType::kF32).data<float>()[0]);
      const long double forgotten = (1 - static_cast<long double>(floor)) / (1 + std::exp(wide));
      const long double exact =
          floor == 0 && wide < 0 ? wide - std::log1p(std::exp(wide)) : std::log1p(-forgotten);
      EXPECT_NEAR(static_cast<double>(result.outputs[0].data<float>()[0] / exact), 1, 2e-6)
          << a << " floor " << floor;
      check_finite(ctx, "gradient", result.gradients[0]);
    }
}

}  // namespace
}  // namespace longship
