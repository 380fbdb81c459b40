// The norm of all gradients on a GPU, and the search for one that is not finite.
#include "optim/gradient_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/gpu_check.h"

namespace longship {
namespace {

using testing::bf16_values;
using testing::poisoned_gpu;

// One tensor of several chunks, one that fills one exactly, small ones, and an empty one.
struct Model {
  Context ctx;
  ParameterList parameters;

  explicit Model(const Context& context) : ctx(context), parameters(ctx, DType::kF32, 3) {
    parameters.add("a", {100003}, {}, true);
    parameters.add("empty", {0}, {}, true);
    parameters.add("b", {7, 5}, {}, true);
    parameters.add("c", {1 << 15}, {}, true);
    parameters.add("d", {3}, {}, true);
  }

  const Tensor& gradient(size_t index) {
    return parameters.all()[index].variable.gradient()->accumulate_into(ctx);
  }
  void set_gradients() {
    for (size_t n = 0; n < parameters.all().size(); ++n)
      gradient(n).copy_from(bf16_values(gradient(n).shape(), n + 1).to(DType::kF32));
  }
  void set(size_t index, int64_t element, float value) {
    gradient(index)
        .reshape({-1})
        .slice(0, element, 1)
        .copy_from(Tensor::from<float>(ctx.memory, {1}, {&value, 1}));
  }
};

TEST(GradientNormOnGpu, EqualsTheCpuAndGivesTheSameBitsAgain) {
  Model model(poisoned_gpu()), host{Context()};
  model.set_gradients();
  host.set_gradients();
  const double exact = gradient_norm(host.ctx, host.parameters);
  const double found = gradient_norm(model.ctx, model.parameters);
  EXPECT_NEAR(found, exact, exact * 1e-14);
  for (int repeat = 0; repeat < 5; ++repeat)
    EXPECT_EQ(gradient_norm(model.ctx, model.parameters), found);
}

TEST(GradientNormOnGpu, DoesNotDependOnWhereGradientsLie) {
  Model model(poisoned_gpu());
  model.set_gradients();
  const double aligned = gradient_norm(model.ctx, model.parameters);
  for (Parameter& parameter : model.parameters.all()) {
    Gradient& gradient = *parameter.variable.gradient();
    const int64_t count = gradient.sum().numel();
    const Tensor buffer = model.ctx.empty({count + 1}, DType::kF32);
    const Tensor shifted = buffer.slice(0, 1, count).reshape(gradient.shape());
    shifted.copy_from(gradient.sum());
    gradient.clear();
    gradient.add(model.ctx, shifted);
  }
  EXPECT_EQ(gradient_norm(model.ctx, model.parameters), aligned);
}

TEST(GradientNormOnGpu, DoesNotOverflowWhereSinglePrecisionWould) {
  Model model(poisoned_gpu());
  model.set_gradients();
  model.set(4, 2, 1e30f);
  EXPECT_NEAR(gradient_norm(model.ctx, model.parameters), 1e30, 1e23);
}

TEST(GradientNormOnGpu, IsZeroWithoutGradients) {
  Model model(poisoned_gpu());
  EXPECT_EQ(gradient_norm(model.ctx, model.parameters), 0);
  EXPECT_EQ(first_non_finite(model.ctx, model.parameters), "");
}

TEST(FirstNonFiniteOnGpu, NamesTheFirstParameterThatIsBad) {
  Model model(poisoned_gpu());
  model.set_gradients();
  EXPECT_EQ(first_non_finite(model.ctx, model.parameters), "");
  model.set(4, 0, std::numeric_limits<float>::infinity());
  EXPECT_EQ(first_non_finite(model.ctx, model.parameters), "d");
  model.set(2, 34, std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(first_non_finite(model.ctx, model.parameters), "b");
  model.set(0, 100002, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(first_non_finite(model.ctx, model.parameters), "a");
  EXPECT_FALSE(std::isfinite(gradient_norm(model.ctx, model.parameters)));
}

}  // namespace
}  // namespace longship
