#include "runtime/ops/gated_rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

std::vector<GatedRmsNormOptions> variants(int64_t F) {
  std::vector<GatedRmsNormOptions> all;
  for (GateActivation activation : {GateActivation::kSilu, GateActivation::kSigmoid})
    for (bool norm_before_gate : {true, false})
      for (int64_t group_size : {int64_t{0}, F / 3})
        all.push_back({1e-3, activation, norm_before_gate, group_size});
  return all;
}

testing::OpFunction op(const GatedRmsNormOptions& options) {
  return [options](Context& ctx, const std::vector<Variable>& inputs) -> std::vector<Variable> {
    return {gated_rms_norm(ctx, inputs[0], inputs[1], inputs[2], options)};
  };
}

std::vector<Tensor> inputs(Context& ctx, Shape shape) {
  const int64_t F = shape.back();
  return {random_tensor(ctx, shape, 1, 2.0), random_tensor(ctx, shape, 2, 2.0),
          random_tensor(ctx, {F}, 3)};
}

TEST(GatedRmsNorm, EqualsItsFormula) {
  Context ctx;
  const int64_t R = 5, F = 21;
  const std::vector<Tensor> in = inputs(ctx, {R, F});
  for (const GatedRmsNormOptions& options : variants(F)) {
    const int64_t D = options.group_size == 0 ? F : options.group_size;
    const Tensor expected = ctx.empty({R, F}, DType::kF64);
    for (int64_t first = 0; first < R * F; first += D) {
      std::vector<double> gate, u;
      double square = 0;
      for (int64_t i = first; i < first + D; ++i) {
        const double z = in[1].data<double>()[i];
        gate.push_back((options.activation == GateActivation::kSilu ? z : 1) / (1 + std::exp(-z)));
        u.push_back(in[0].data<double>()[i] * (options.norm_before_gate ? 1 : gate.back()));
        square += u.back() * u.back();
      }
      const double rms = std::sqrt(square / static_cast<double>(D) + options.eps);
      for (int64_t i = 0; i < D; ++i)
        expected.data<double>()[first + i] =
            u[static_cast<size_t>(i)] / rms * in[2].data<double>()[(first + i) % F] *
            (options.norm_before_gate ? gate[static_cast<size_t>(i)] : 1);
    }
    EXPECT_LE(testing::relative_rms(op(options)(ctx, {in[0], in[1], in[2]})[0].value(), expected),
              1e-14);
  }
}

TEST(GatedRmsNorm, GradientsAreCentralDifferences) {
  Context ctx;
  for (const GatedRmsNormOptions& options : variants(9))
    testing::check_gradients(op(options), inputs(ctx, {3, 2, 9}));
}

TEST(GatedRmsNorm, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (const GatedRmsNormOptions& options : variants(123))
    for (int64_t R : {0, 1, 131}) {
      testing::check_precision(op(options), inputs(ctx, {R, 123}));
      testing::check_thread_invariance(op(options), inputs(ctx, {R, 123}));
    }
}

}  // namespace
}  // namespace longship
