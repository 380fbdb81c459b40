#include "runtime/ops/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/ops/add.h"
#include "runtime/ops/scale.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;
constexpr double kEps = 1e-5;

std::vector<Variable> normed(Context& ctx, const std::vector<Variable>& inputs) {
  return {rms_norm(ctx, inputs[0], inputs[1], kEps)};
}

std::vector<Variable> zero_centered(Context& ctx, const std::vector<Variable>& inputs) {
  return {rms_norm(ctx, inputs[0], inputs[1], kEps, /*zero_centered=*/true)};
}

TEST(RmsNorm, ZeroCenteredMultipliesByOnePlusTheWeight) {
  Context ctx;
  const Tensor x = random_tensor(ctx, {5, 7}, 21), weight = random_tensor(ctx, {7}, 22);
  const Tensor shifted = weight.clone();
  for (int64_t d = 0; d < 7; ++d) shifted.data<double>()[d] += 1;
  EXPECT_TRUE(testing::bitwise_equal(zero_centered(ctx, {x, weight})[0].value(),
                                     normed(ctx, {x, shifted})[0].value()));
  testing::check_gradients(zero_centered, {x, weight});
  testing::check_precision(zero_centered, {x, weight});
}

TEST(RmsNorm, GradientsEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(normed, {random_tensor(ctx, {4, 9}, 1), random_tensor(ctx, {9}, 2)});
}

TEST(RmsNorm, GradientsPerHeadEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(normed, {random_tensor(ctx, {3, 2, 5}, 3), random_tensor(ctx, {5}, 4)});
}

// x and another path from x to the output: recorded before the norm, so that the norm meets no
// gradient of x that it may change; after it, so that it adds in place; or x itself.
std::vector<Variable> with_path_before(Context& ctx, const std::vector<Variable>& inputs) {
  const Variable x = scale(ctx, inputs[0], 1.0);
  const Variable other = scale(ctx, x, 0.5);
  return {add(ctx, other, rms_norm(ctx, x, inputs[1], kEps))};
}

std::vector<Variable> with_path_after(Context& ctx, const std::vector<Variable>& inputs) {
  const Variable x = scale(ctx, inputs[0], 1.0);
  const Variable y = rms_norm(ctx, x, inputs[1], kEps);
  return {add(ctx, scale(ctx, x, 0.5), y)};
}

std::vector<Variable> with_residual(Context& ctx, const std::vector<Variable>& inputs) {
  const Variable x = scale(ctx, inputs[0], 1.0);
  return {add(ctx, x, rms_norm(ctx, x, inputs[1], kEps))};
}

TEST(RmsNorm, AddsItsGradientToWhatItsInputHas) {
  Context ctx;
  const std::vector<Tensor> inputs = {random_tensor(ctx, {7, 13}, 31),
                                      random_tensor(ctx, {13}, 32)};
  for (const auto& function : {with_path_before, with_path_after, with_residual}) {
    testing::check_gradients(function, inputs);
    testing::check_precision(function, inputs);
  }
}

TEST(RmsNorm, RoundsTheSumOfBothGradientsOnce) {
  Context ctx;
  const std::vector<Tensor> inputs = {random_tensor(ctx, {5, 64}, 33),
                                      random_tensor(ctx, {64}, 34)};
  const testing::OpResult exact = testing::run_op(with_residual, inputs, DType::kF64);
  const testing::OpResult found = testing::run_op(with_residual, inputs, DType::kBF16);
  // What scale() by one hands on is the sum as it was rounded.
  for (int64_t i = 0; i < 5 * 64; ++i) {
    const double expected = exact.gradients[0].data<double>()[i];
    EXPECT_NEAR(found.gradients[0].data<float>()[i], expected, std::abs(expected) / 256 + 1e-6);
  }
}

TEST(RmsNorm, GradientsOverManyRowsEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(normed, {random_tensor(ctx, {307, 3}, 5), random_tensor(ctx, {3}, 6)},
                           1e-6, 40);
}

TEST(RmsNorm, EqualsItsFormulaAtEveryHeadSize) {
  Context ctx;
  for (int64_t D : {1, 7, 64, 96, 128, 192, 256}) {
    const Tensor x = random_tensor(ctx, {11, D}, 7, 2.0).to(DType::kF32);
    const Tensor weight = random_tensor(ctx, {D}, 8).to(DType::kF32);
    const Tensor expected = ctx.empty({11, D}, DType::kF64);
    for (int64_t r = 0; r < 11; ++r) {
      double square = 0;
      for (int64_t d = 0; d < D; ++d) square += std::pow(x.data<float>()[r * D + d], 2);
      for (int64_t d = 0; d < D; ++d)
        expected.data<double>()[r * D + d] = x.data<float>()[r * D + d] /
                                             std::sqrt(square / static_cast<double>(D) + kEps) *
                                             weight.data<float>()[d];
    }
    EXPECT_LE(testing::relative_rms(rms_norm(ctx, x, weight, kEps).value(), expected), 3e-7) << D;
  }
}

TEST(RmsNorm, IsPreciseAtEveryHeadSize) {
  Context ctx;
  for (int64_t D : {5, 64, 96, 128, 192, 256, 1021})
    for (int64_t R : {0, 1, 131})
      testing::check_precision(normed,
                               {random_tensor(ctx, {R, D}, 9, 3.0), random_tensor(ctx, {D}, 10)});
}

TEST(RmsNorm, IsIndependentOfThreads) {
  Context ctx;
  testing::check_thread_invariance(
      normed, {random_tensor(ctx, {40, 33, 65}, 11), random_tensor(ctx, {65}, 12)});
}

TEST(RmsNorm, EqualRowsGiveEqualBits) {
  Context ctx;
  const int64_t D = 97;
  const Tensor row = random_tensor(ctx, {1, D}, 13);
  const Tensor x = ctx.empty({9, D}, DType::kF32);
  for (int64_t r = 0; r < 9; ++r) x.slice(0, r, 1).copy_from(row);
  const Tensor weight = random_tensor(ctx, {D}, 14).to(DType::kF32);
  const Tensor y = rms_norm(ctx, x, weight, kEps).value();
  for (int64_t r = 1; r < 9; ++r)
    EXPECT_TRUE(testing::bitwise_equal(y.slice(0, r, 1), y.slice(0, 0, 1))) << r;
}

TEST(RmsNorm, OfAZeroRowIsZeroAndItsGradientFinite) {
  Context ctx;
  const testing::OpResult result = testing::run_op(
      normed, {ctx.zeros({2, 16}, DType::kF64), random_tensor(ctx, {16}, 15)}, DType::kF32);
  EXPECT_EQ(testing::relative_rms(result.outputs[0], ctx.zeros({2, 16}, DType::kF32)), 0);
  for (const Tensor& gradient : result.gradients) check_finite(ctx, "gradient", gradient);
}

TEST(RmsNorm, WeightGradientStaysPreciseOverManyRows) {
  const int64_t R = 1000003;
  testing::TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Tensor x = ctx.empty({R, 2}, DType::kF32), dy = ctx.empty({R, 2}, DType::kF32);
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<float>()[i] = 1.0f + 0.1f * static_cast<float>(i % 7);
    dy.data<float>()[i] = 1.0f;
  }
  const float ones[] = {1, 1};
  const Variable weight = Variable::leaf(Tensor::from<float>(ctx.memory, {2}, ones));
  const Variable y = rms_norm(ctx, x, weight, kEps);
  recorded.tape.backward(ctx, y, dy);
  double expected[2] = {0, 0};
  float plain[2] = {0, 0};
  for (int64_t i = 0; i < x.numel(); ++i) {
    expected[i % 2] += static_cast<double>(y.value().data<float>()[i]);
    plain[i % 2] += y.value().data<float>()[i];
  }
  for (int64_t d = 0; d < 2; ++d) {
    EXPECT_NEAR(weight.gradient()->sum().data<float>()[d] / expected[d], 1.0, 1e-6);
    EXPECT_GT(std::abs(plain[d] / expected[d] - 1.0), 1e-5) << "the case is too easy";
  }
}

}  // namespace
}  // namespace longship
