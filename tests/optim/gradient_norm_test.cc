#include "optim/gradient_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/gradient_check.h"

namespace longship {
namespace {

struct Model {
  Context ctx;
  ParameterList parameters{ctx, DType::kF32, 1};

  Model() {
    parameters.add("a", {40001}, {}, true);
    parameters.add("b", {3, 7}, {}, true);
    parameters.add("unused", {5}, {}, true);
    set("a", 11, 1.0);
    set("b", 12, 100.0);
  }

  Tensor gradient(const char* name) {
    return parameters.find(name)->variable.gradient()->accumulate_into(ctx);
  }
  void set(const char* name, uint64_t seed, double scale) {
    const Tensor sum = gradient(name);
    sum.copy_from(testing::random_tensor(ctx, sum.shape(), seed, scale));
  }
};

TEST(GradientNorm, IsTheRootOfTheSumOfAllSquares) {
  Model model;
  long double sum = 0;
  for (const char* name : {"a", "b"}) {
    const Tensor g = model.gradient(name);
    for (int64_t i = 0; i < g.numel(); ++i)
      sum += static_cast<long double>(g.data<float>()[i]) * g.data<float>()[i];
  }
  const double expected = static_cast<double>(std::sqrt(sum));
  EXPECT_NEAR(gradient_norm(model.ctx, model.parameters), expected, expected * 1e-14);
}

TEST(GradientNorm, HasTheSameBitsForAnyNumberOfThreads) {
  Model model;
  const double one = gradient_norm(model.ctx, model.parameters);
  for (int threads : {2, 3, 8}) {
    model.ctx.num_threads = threads;
    EXPECT_EQ(gradient_norm(model.ctx, model.parameters), one);
  }
}

TEST(GradientNorm, DoesNotOverflowWhereSinglePrecisionWould) {
  Model model;
  model.gradient("b").data<float>()[0] = 1e30f;
  EXPECT_NEAR(gradient_norm(model.ctx, model.parameters), 1e30, 1e23);
}

TEST(GradientNorm, IsZeroWithoutGradients) {
  Model model;
  model.parameters.clear_gradients();
  EXPECT_EQ(gradient_norm(model.ctx, model.parameters), 0);
  EXPECT_EQ(first_non_finite(model.ctx, model.parameters), "");
}

TEST(FirstNonFinite, NamesTheFirstParameterThatIsBad) {
  Model model;
  EXPECT_EQ(first_non_finite(model.ctx, model.parameters), "");
  model.gradient("b").data<float>()[20] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(first_non_finite(model.ctx, model.parameters), "b");
  model.gradient("a").data<float>()[40000] = std::numeric_limits<float>::quiet_NaN();
  for (int threads : {1, 3}) {
    model.ctx.num_threads = threads;
    EXPECT_EQ(first_non_finite(model.ctx, model.parameters), "a");
  }
}

TEST(ClipScale, ShrinksOnlyWhatIsTooLong) {
  EXPECT_DOUBLE_EQ(clip_scale(4.0, 1.0), 0.25);
  EXPECT_DOUBLE_EQ(clip_scale(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_scale(0.0, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_scale(4.0, 0.0), 1.0);
}

}  // namespace
}  // namespace longship
