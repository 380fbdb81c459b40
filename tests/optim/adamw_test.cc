#include "optim/adamw.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>

#include "optim/gradient_norm.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::relative_rms;

constexpr AdamWOptions kOptions = {
    .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1};

// Three parameters, of which the norm does not decay.
struct Model {
  Context ctx;
  ParameterList parameters;

  explicit Model(DType dtype) : parameters(ctx, dtype, 7) {
    parameters.add("embed", {31, 5}, {}, true);
    parameters.add("norm", {9}, {Initializer::Kind::kConstant, 1.0}, false);
    parameters.add("head", {5, 13}, {Initializer::Kind::kUniform, -1.0, 1.0}, true);
  }

  // Sets every gradient to random numbers that depend on (step, parameter, index).
  void set_gradients(int64_t step, double scale = 1.0) {
    uint64_t stream = 0;
    for (Parameter& parameter : parameters.all()) {
      Gradient& slot = *parameter.variable.gradient();
      slot.clear();
      const Tensor& sum = slot.accumulate_into(ctx);
      const Tensor values = testing::random_tensor(
          ctx, sum.shape(), static_cast<uint64_t>(step) * 100 + stream++, scale);
      sum.copy_from(values);
    }
  }
};

// The algorithm as printed in the paper, one element at a time, with explicit corrected moments.
struct Reference {
  std::vector<double> p, m, v;
  bool decay;

  explicit Reference(const Parameter& parameter) : decay(parameter.decay) {
    const Tensor master = parameter.master.to(DType::kF64);
    p.assign(master.data<double>(), master.data<double>() + master.numel());
    m.assign(p.size(), 0);
    v.assign(p.size(), 0);
  }

  void step(const AdamWOptions& o, int t, double rate, double scale, const Tensor& gradient) {
    const Tensor g = gradient.to(DType::kF64);
    for (size_t i = 0; i < p.size(); ++i) {
      const double gi = scale * g.data<double>()[i];
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * gi;
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * gi * gi;
      const double m_hat = m[i] / (1 - std::pow(o.beta1, t));
      const double v_hat = v[i] / (1 - std::pow(o.beta2, t));
      const double wd = decay ? o.weight_decay : 0;
      p[i] = p[i] - rate * (m_hat / (std::sqrt(v_hat) + o.epsilon) + wd * p[i]);
    }
  }
};

void expect_equals_reference(DType dtype, double tolerance) {
  Model model(dtype);
  AdamW optimizer(model.ctx, model.parameters, kOptions);
  std::vector<Reference> references;
  for (const Parameter& parameter : model.parameters.all()) references.emplace_back(parameter);
  for (int t = 1; t <= 8; ++t) {
    const double rate = 0.01 / t, scale = t % 2 == 0 ? 0.3 : 1.0;
    model.set_gradients(t);
    optimizer.step(model.ctx, rate, scale);
    for (size_t n = 0; n < references.size(); ++n) {
      const Parameter& parameter = model.parameters.all()[n];
      references[n].step(kOptions, t, rate, scale, parameter.variable.gradient()->sum());
      const Tensor expected = Tensor::from<double>(model.ctx.memory, parameter.master.shape(),
                                                   std::span<const double>(references[n].p));
      EXPECT_LE(relative_rms(parameter.master, expected), tolerance)
          << parameter.name << " after step " << t;
    }
  }
  EXPECT_EQ(optimizer.num_steps(), 8);
}

TEST(AdamW, EqualsThePaperInDoublePrecision) {
  expect_equals_reference(DType::kF64, 1e-15);
}

TEST(AdamW, EqualsThePaperInSinglePrecision) {
  expect_equals_reference(DType::kF32, 2e-7);
}

// The right-hand sides come from PyTorch's formula (multiply by 1 - lr * wd, lerp, addcdiv)
// evaluated with 50 decimal digits.
TEST(AdamW, GivesTheNumbersOfPytorch) {
  struct Case {
    double rate;
    AdamWOptions options;
    double start;
    std::vector<double> gradients, expected;
  };
  const std::vector<Case> cases = {
      {0.01,
       {0.9, 0.999, 1e-8, 0.01},
       1.5,
       {0.5, -0.25, 2},
       {1.489850000199999996, 1.487037644870764616, 1.480182464688408214}},
      {0.1,
       {0.8, 0.95, 1e-3, 0.1},
       -0.75,
       {1, 1e-3, -3},
       {-0.842400099900099900, -0.897640039562741111, -0.836797695340426191}},
  };
  for (const Case& one : cases) {
    Context ctx;
    ParameterList parameters(ctx, DType::kF64, 1);
    parameters.add("w", {1}, {Initializer::Kind::kConstant, one.start}, true);
    AdamW optimizer(ctx, parameters, one.options);
    Parameter& w = parameters.all()[0];
    for (size_t t = 0; t < one.gradients.size(); ++t) {
      w.variable.gradient()->accumulate_into(ctx).data<double>()[0] = one.gradients[t];
      optimizer.step(ctx, one.rate);
      EXPECT_NEAR(w.master.data<double>()[0], one.expected[t], 1e-15);
    }
  }
}

TEST(AdamW, DecaysOnlyParametersThatAskForIt) {
  Model model(DType::kF32);
  const Tensor norm = model.parameters.find("norm")->master.clone();
  const Tensor head = model.parameters.find("head")->master.clone();
  AdamW optimizer(model.ctx, model.parameters, kOptions);
  optimizer.step(model.ctx, 0.5);  // no gradient: nothing but decay is left
  EXPECT_EQ(relative_rms(model.parameters.find("norm")->master, norm), 0);
  for (int64_t i = 0; i < head.numel(); ++i)
    EXPECT_EQ(model.parameters.find("head")->master.data<float>()[i],
              head.data<float>()[i] * 0.95f);
}

TEST(AdamW, ScalesTheGradientAndNotTheUpdate) {
  Model scaled(DType::kF32), plain(DType::kF32);
  AdamW a(scaled.ctx, scaled.parameters, kOptions), b(plain.ctx, plain.parameters, kOptions);
  for (int t = 1; t <= 3; ++t) {
    scaled.set_gradients(t, 1.0);
    plain.set_gradients(t, 0.25);
    a.step(scaled.ctx, 0.01, 0.25);
    b.step(plain.ctx, 0.01);
  }
  for (size_t n = 0; n < a.state().size(); ++n)
    EXPECT_EQ(relative_rms(a.state()[n].tensor, b.state()[n].tensor), 0) << a.state()[n].name;
}

TEST(AdamW, GivesTheSameBitsForAnyNumberOfThreads) {
  std::vector<Tensor> masters;
  for (int threads : {1, 2, 3, 7}) {
    Context ctx;
    ctx.num_threads = threads;
    ParameterList parameters(ctx, DType::kF32, 3);
    parameters.add("w", {100003}, {}, true);
    AdamW optimizer(ctx, parameters, kOptions);
    for (uint64_t t = 1; t <= 2; ++t) {
      parameters.clear_gradients();
      parameters.all()[0].variable.gradient()->accumulate_into(ctx).copy_from(
          testing::random_tensor(ctx, {100003}, t));
      optimizer.step(ctx, 0.01);
    }
    masters.push_back(parameters.all()[0].master);
    EXPECT_EQ(std::memcmp(masters[0].raw(), masters.back().raw(), 100003 * sizeof(float)), 0)
        << threads << " threads";
  }
}

TEST(AdamW, ContinuesBitwiseFromItsState) {
  Model whole(DType::kBF16), first(DType::kBF16), second(DType::kBF16);
  AdamW through(whole.ctx, whole.parameters, kOptions),
      before(first.ctx, first.parameters, kOptions), after(second.ctx, second.parameters, kOptions);
  auto run = [](Model& model, AdamW& optimizer, int from, int to) {
    for (int t = from; t <= to; ++t) {
      model.set_gradients(t);
      optimizer.step(model.ctx, 0.01);
    }
  };
  run(whole, through, 1, 6);
  run(first, before, 1, 3);
  const std::vector<NamedTensor> saved = before.state(), restored = after.state();
  for (size_t n = 0; n < saved.size(); ++n) {
    EXPECT_EQ(saved[n].name, restored[n].name);
    restored[n].tensor.copy_from(saved[n].tensor);
  }
  for (size_t n = 0; n < first.parameters.all().size(); ++n)
    second.parameters.all()[n].master.copy_from(first.parameters.all()[n].master);
  after.set_num_steps(before.num_steps());
  run(second, after, 4, 6);
  for (size_t n = 0; n < whole.parameters.all().size(); ++n) {
    const Parameter& a = whole.parameters.all()[n];
    const Parameter& b = second.parameters.all()[n];
    EXPECT_EQ(
        std::memcmp(a.master.raw(), b.master.raw(), static_cast<size_t>(a.master.num_bytes())), 0)
        << a.name;
  }
}

TEST(AdamW, NamesItsStateAfterTheParameters) {
  Model model(DType::kBF16);
  const std::vector<NamedTensor> state = AdamW(model.ctx, model.parameters, kOptions).state();
  ASSERT_EQ(state.size(), 6u);
  EXPECT_EQ(state[0].name, "optim.m.embed");
  EXPECT_EQ(state[1].name, "optim.v.embed");
  EXPECT_EQ(state[5].name, "optim.v.head");
  EXPECT_EQ(state[0].tensor.dtype(), DType::kF32);
  EXPECT_EQ(state[0].tensor.shape(), (Shape{31, 5}));
}

TEST(AdamW, RoundsTheNewMastersIntoTheComputeCopies) {
  Model model(DType::kBF16);
  AdamW optimizer(model.ctx, model.parameters, kOptions);
  model.set_gradients(1);
  optimizer.step(model.ctx, 0.5);
  for (const Parameter& parameter : model.parameters.all()) {
    const Tensor rounded = parameter.master.to(DType::kBF16);
    EXPECT_EQ(std::memcmp(rounded.raw(), parameter.variable.value().raw(),
                          static_cast<size_t>(rounded.num_bytes())),
              0)
        << parameter.name;
  }
}

TEST(AdamW, ReadsAGradientThatIsAView) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF64, 1);
  parameters.add("w", {2, 3}, {Initializer::Kind::kConstant, 0.0}, true);
  AdamW optimizer(ctx, parameters, {.beta1 = 0, .beta2 = 0, .epsilon = 1e-30, .weight_decay = 0});
  const Tensor signs = Tensor::from<double>(
      ctx.memory, {3, 2}, std::span<const double>(std::array<double, 6>{1, -1, 1, 1, -1, 1}));
  parameters.all()[0].variable.gradient()->add(ctx, signs.transpose(0, 1));
  optimizer.step(ctx, 1.0);
  // Without memory the update is -rate * sign(gradient).
  const std::vector<double> expected = {-1, -1, 1, 1, -1, -1};
  for (size_t i = 0; i < 6; ++i)
    EXPECT_DOUBLE_EQ(parameters.all()[0].master.data<double>()[i], expected[i]) << i;
}

TEST(AdamW, ClipsByTheNormItIsGiven) {
  Model known(DType::kBF16), unknown(DType::kBF16);
  AdamW a(known.ctx, known.parameters, kOptions), b(unknown.ctx, unknown.parameters, kOptions);
  for (int t = 1; t <= 2; ++t) {
    known.set_gradients(t);
    unknown.set_gradients(t);
    a.step(known.ctx, 0.01, clip_scale(gradient_norm(known.ctx, known.parameters), 1.5));
    b.step(unknown.ctx, 0.01,
           Clipping{squared_gradient_norm(unknown.ctx, unknown.parameters), 1.5});
  }
  for (size_t n = 0; n < a.state().size(); ++n)
    EXPECT_EQ(relative_rms(a.state()[n].tensor, b.state()[n].tensor), 0) << a.state()[n].name;
}

TEST(AdamW, ChangesNothingIfTheNormIsNotFinite) {
  Model model(DType::kF32);
  AdamW optimizer(model.ctx, model.parameters, kOptions);
  model.set_gradients(1);
  optimizer.step(model.ctx, 0.01);
  const Tensor master = model.parameters.find("embed")->master.clone();
  const Tensor m = optimizer.state()[0].tensor.clone();
  model.parameters.all()[1].variable.gradient()->accumulate_into(model.ctx).data<float>()[3] =
      std::nanf("");
  optimizer.step(model.ctx, 0.01,
                 Clipping{squared_gradient_norm(model.ctx, model.parameters), 1.0});
  EXPECT_EQ(relative_rms(model.parameters.find("embed")->master, master), 0);
  EXPECT_EQ(relative_rms(optimizer.state()[0].tensor, m), 0);
}

// Rounded to nearest, moments of a constant gradient stop growing where a step changes them by less
// than half a unit in the last place: v at a quarter of its limit.
TEST(AdamW, MomentsInBf16KeepTheirMean) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF32, 1);
  const int64_t count = 1023;
  parameters.add("w", {count}, {Initializer::Kind::kConstant, 0.0}, true);
  AdamW optimizer(ctx, parameters, {.beta1 = 0.99, .beta2 = 0.999, .bf16_moments = true});
  const Tensor& gradient = parameters.all()[0].variable.gradient()->accumulate_into(ctx);
  for (int64_t i = 0; i < count; ++i) gradient.data<float>()[i] = 0.75f;
  const int num_steps = 2000;
  for (int t = 0; t < num_steps; ++t) optimizer.step(ctx, 1e-3);
  double mean[2] = {};
  for (size_t n = 0; n < 2; ++n) {
    const Tensor moment = optimizer.state()[n].tensor;
    ASSERT_EQ(moment.dtype(), DType::kBF16);
    for (int64_t i = 0; i < count; ++i)
      mean[n] += static_cast<double>(moment.data<bf16>()[i]) / count;
  }
  EXPECT_NEAR(mean[0], 0.75 * (1 - std::pow(0.99, num_steps)), 0.75 * 0.02);
  EXPECT_NEAR(mean[1], 0.5625 * (1 - std::pow(0.999, num_steps)), 0.5625 * 0.02);
}

TEST(AdamW, MomentsInBf16GiveTheSameBitsForAnyNumberOfThreads) {
  std::vector<Tensor> first;
  for (int threads : {1, 3}) {
    Context ctx;
    ctx.num_threads = threads;
    ParameterList parameters(ctx, DType::kBF16, 3);
    parameters.add("w", {50003}, {}, true);
    AdamW optimizer(ctx, parameters, {.bf16_moments = true});
    for (uint64_t t = 1; t <= 2; ++t) {
      parameters.clear_gradients();
      parameters.all()[0].variable.gradient()->accumulate_into(ctx).copy_from(
          testing::random_tensor(ctx, {50003}, t));
      optimizer.step(ctx, 0.01);
    }
    if (threads == 1)
      for (const NamedTensor& entry : optimizer.state()) first.push_back(entry.tensor);
    for (size_t n = 0; n < 2; ++n)
      EXPECT_EQ(relative_rms(optimizer.state()[n].tensor, first[n]), 0) << threads << " threads";
  }
}

TEST(AdamW, RefusesOptionsOutsideTheirRange) {
  Model model(DType::kF32);
  auto make = [&](AdamWOptions options) { AdamW(model.ctx, model.parameters, options); };
  expect_error(ErrorCode::kConfig, {"beta1", "1"}, [&] { make({.beta1 = 1.0}); });
  expect_error(ErrorCode::kConfig, {"beta2", "-0.1"}, [&] { make({.beta2 = -0.1}); });
  expect_error(ErrorCode::kConfig, {"epsilon", "0"}, [&] { make({.epsilon = 0}); });
  expect_error(ErrorCode::kConfig, {"weight_decay", "nan"},
               [&] { make({.weight_decay = std::nan("")}); });
}

}  // namespace
}  // namespace longship
