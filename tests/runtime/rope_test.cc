#include "runtime/ops/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

Tensor positions(Context& ctx, const std::vector<int64_t>& values) {
  return Tensor::from<int64_t>(ctx.memory, {static_cast<int64_t>(values.size())}, values);
}

// The largest error of cos and sin over all angles, against 80-bit arithmetic.
double worst_angle_error(Context& ctx, const std::vector<int64_t>& at, int64_t rotary_dim,
                         double theta, DType dtype) {
  const RopeAngles angles = rope_angles(ctx, positions(ctx, at), rotary_dim, theta, dtype);
  const Tensor cos = angles.cos_TR.to(DType::kF64), sin = angles.sin_TR.to(DType::kF64);
  const int64_t num_pairs = rotary_dim / 2;
  EXPECT_EQ(cos.shape(), (Shape{static_cast<int64_t>(at.size()), num_pairs}));
  double worst = 0;
  for (size_t t = 0; t < at.size(); ++t)
    for (int64_t i = 0; i < num_pairs; ++i) {
      const long double angle = static_cast<long double>(at[t]) *
                                std::pow(static_cast<long double>(theta),
                                         -2.0L * i / static_cast<long double>(rotary_dim));
      const int64_t n = static_cast<int64_t>(t) * num_pairs + i;
      worst =
          std::max(worst, std::abs(static_cast<double>(cos.data<double>()[n] - std::cos(angle))));
      worst =
          std::max(worst, std::abs(static_cast<double>(sin.data<double>()[n] - std::sin(angle))));
    }
  return worst;
}

TEST(RopeAngles, AreExactAtFarPositions) {
  Context ctx;
  const std::vector<int64_t> far = {0, 1, 131071, 999'999, 1'000'000, 99'999'999, 100'000'000};
  for (int64_t rotary_dim : {2, 64, 96, 128, 192, 256})
    for (double theta : {1e4, 5e5, 1e7, 1e11}) {
      EXPECT_LE(worst_angle_error(ctx, far, rotary_dim, theta, DType::kF32), 6e-8)
          << rotary_dim << " " << theta;
      EXPECT_LE(worst_angle_error(ctx, far, rotary_dim, theta, DType::kF64), 2e-11)
          << rotary_dim << " " << theta;
    }
}

TEST(RopeAngles, AreRightAllAroundTheCircle) {
  // theta 1 turns every pair by the position itself.
  Context ctx;
  std::vector<int64_t> at;
  for (int64_t position = -20000; position < 20000; ++position) at.push_back(position);
  EXPECT_LE(worst_angle_error(ctx, at, 2, 1.0, DType::kF64), 2e-15);
}

// y[i] of one head by the definition, in fp64.
std::vector<double> rotated(const std::vector<double>& x, int64_t position, int64_t rotary_dim,
                            double theta) {
  std::vector<double> y = x;
  const size_t half = static_cast<size_t>(rotary_dim / 2);
  for (size_t i = 0; i < half; ++i) {
    const double angle =
        static_cast<double>(position) * std::pow(theta, -2.0 * static_cast<double>(i) / rotary_dim);
    y[i] = x[i] * std::cos(angle) - x[i + half] * std::sin(angle);
    y[i + half] = x[i + half] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

TEST(Rope, EqualsItsDefinitionAndPassesTheRestThrough) {
  Context ctx;
  const std::vector<int64_t> at = {0, 1, 2, 1000, 77};
  const int64_t H = 3;
  for (int64_t D : {64, 96, 128, 192, 256})
    for (int64_t rotary_dim : {D, D / 4, int64_t{2}}) {
      const Tensor x = random_tensor(ctx, {5, H, D}, 1);
      const RopeAngles angles =
          rope_angles(ctx, positions(ctx, at), rotary_dim, 10000.0, DType::kF64);
      const Tensor y = rope(ctx, x, angles).value();
      for (int64_t row = 0; row < 5 * H; ++row) {
        const double* head = x.data<double>() + row * D;
        const std::vector<double> expected =
            rotated({head, head + D}, at[static_cast<size_t>(row / H)], rotary_dim, 10000.0);
        for (int64_t d = 0; d < D; ++d)
          ASSERT_NEAR(y.data<double>()[row * D + d], expected[static_cast<size_t>(d)], 1e-11)
              << "D " << D << " R " << rotary_dim << " row " << row << " feature " << d;
      }
    }
}

TEST(Rope, TurnsFeaturesInTheMiddleOfAHead) {
  Context ctx;
  const std::vector<int64_t> at = {3, 1000, 77};
  const int64_t H = 2, D = 23, R = 6, first = 9;
  const RopeAngles angles = rope_angles(ctx, positions(ctx, at), R, 100.0, DType::kF64);
  const Tensor x = random_tensor(ctx, {3, H, D}, 1);
  const Tensor y = rope(ctx, x, angles, first).value();
  for (int64_t row = 0; row < 3 * H; ++row) {
    const double* head = x.data<double>() + row * D;
    const std::vector<double> middle =
        rotated({head + first, head + first + R}, at[static_cast<size_t>(row / H)], R, 100.0);
    for (int64_t d = 0; d < D; ++d) {
      const bool turns = d >= first && d < first + R;
      ASSERT_NEAR(y.data<double>()[row * D + d],
                  turns ? middle[static_cast<size_t>(d - first)] : head[d], 1e-11)
          << "row " << row << " feature " << d;
    }
  }
  EXPECT_THROW(rope(ctx, x, angles, D - R + 1), Error);
  EXPECT_THROW(rope(ctx, x, angles, -1), Error);
}

TEST(Rope, ScoresDependOnDistanceOnly) {
  Context ctx;
  const int64_t D = 64;
  const Tensor q = random_tensor(ctx, {1, 1, D}, 2), k = random_tensor(ctx, {1, 1, D}, 3);
  auto score = [&](int64_t q_position, int64_t k_position) {
    const auto at = [&](const Tensor& x, int64_t position) {
      return rope(ctx, x, rope_angles(ctx, positions(ctx, {position}), D, 1e4, DType::kF64))
          .value();
    };
    const Tensor a = at(q, q_position), b = at(k, k_position);
    double sum = 0;
    for (int64_t d = 0; d < D; ++d) sum += a.data<double>()[d] * b.data<double>()[d];
    return sum;
  };
  EXPECT_NEAR(score(1'000'117, 1'000'000), score(117, 0), 1e-10);
}

// Every dtype takes angles of its own accumulator dtype.
testing::OpFunction turned(const std::vector<int64_t>& at, int64_t rotary_dim, int64_t first = 0) {
  return [=](Context& ctx, const std::vector<Variable>& inputs) {
    const RopeAngles angles = rope_angles(ctx, positions(ctx, at), rotary_dim, 10000.0,
                                          accumulator_dtype(inputs[0].dtype()));
    return std::vector<Variable>{rope(ctx, inputs[0], angles, first)};
  };
}

TEST(Rope, GradientsEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(turned({0, 3, 999'983}, 6), {random_tensor(ctx, {3, 2, 8}, 4)});
  testing::check_gradients(turned({5, 2}, 8), {random_tensor(ctx, {2, 1, 8}, 5)});
  testing::check_gradients(turned({5, 2}, 4, 3), {random_tensor(ctx, {2, 3, 8}, 6)});
}

TEST(Rope, BackwardUndoesForward) {
  Context ctx;
  const testing::OpFunction op = turned({1'000'000, 12}, 64);
  const Tensor x = random_tensor(ctx, {2, 3, 64}, 6);
  const testing::OpResult result = testing::run_op(op, {x}, DType::kF64);
  // The gradient, turned forward again, is the output's gradient.
  const Tensor again = op(ctx, {result.gradients[0]})[0].value();
  EXPECT_LE(testing::relative_rms(
                again, random_tensor(ctx, {2, 3, 64}, 1000).to(DType::kBF16).to(DType::kF64)),
            1e-14);
}

TEST(Rope, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  std::vector<int64_t> at;
  for (int64_t t = 0; t < 61; ++t) at.push_back(t * t * 311);
  for (int64_t D : {64, 96, 128, 192, 256}) {
    testing::check_precision(turned(at, D / 2), {random_tensor(ctx, {61, 5, D}, 7)});
    testing::check_thread_invariance(turned(at, D), {random_tensor(ctx, {61, 5, D}, 8)});
    testing::check_precision(turned({}, D), {random_tensor(ctx, {0, 5, D}, 9)});
    testing::check_precision(turned({123}, D), {random_tensor(ctx, {1, 1, D}, 10)});
  }
}

}  // namespace
}  // namespace longship
