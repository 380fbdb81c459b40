// AdamW on a GPU, one launch for all tensors, against the CPU's in fp64.
#include <gtest/gtest.h>

#include <limits>

#include "optim/adamw.h"
#include "optim/gradient_norm.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bf16_values;
using testing::bitwise_equal;
using testing::on_host;
using testing::poisoned_gpu;
using testing::relative_rms;

constexpr AdamWOptions kOptions = {
    .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1};

// Tensors of less and of more than one chunk, odd and even, one of them read in fp32, one that does
// not decay and one that no gradient ever reaches.
struct Model {
  Context ctx;
  ParameterList parameters;

  Model(const Context& context, DType dtype) : ctx(context), parameters(ctx, dtype, 7) {
    parameters.add("embed", {311, 50}, {}, true);
    parameters.add("norm", {9}, {Initializer::Kind::kConstant, 1.0}, false);
    parameters.add("long", {40003}, {Initializer::Kind::kUniform, -1.0, 1.0}, true);
    parameters.add("unused", {16}, {}, true);
    parameters.add("A_log", {7}, {}, false, Precision::kMaster);
    parameters.add("square", {128, 256}, {}, true);
  }

  void set_gradients(int64_t step) {
    uint64_t seed = static_cast<uint64_t>(step) * 100;
    for (Parameter& parameter : parameters.all()) {
      if (parameter.name == "unused") continue;
      const Tensor& sum = parameter.variable.gradient()->accumulate_into(ctx);
      sum.copy_from(bf16_values(sum.shape(), ++seed).to(sum.dtype()));
    }
  }

  void start_at(const ParameterList& other) {
    size_t n = 0;
    for (Parameter& parameter : parameters.all())
      parameter.master.copy_from(on_host(other.all()[n++].master));
    parameters.refresh_compute_copies();
  }
};

std::vector<Tensor> masters(const Model& model) {
  std::vector<Tensor> result;
  for (const Parameter& parameter : model.parameters.all())
    result.push_back(on_host(parameter.master));
  return result;
}

TEST(AdamWOnGpu, EqualsTheCpuAndWritesTheComputeCopies) {
  const Context gpu = poisoned_gpu(), cpu;
  for (DType compute : {DType::kBF16, DType::kF32}) {
    Model model(gpu, compute), exact(cpu, DType::kF64);
    exact.start_at(model.parameters);
    AdamW optimizer(model.ctx, model.parameters, kOptions);
    AdamW reference(exact.ctx, exact.parameters, kOptions);
    for (int t = 1; t <= 6; ++t) {
      const double rate = 0.01 / t, scale = t % 2 == 0 ? 0.3 : 1.0;
      model.set_gradients(t);
      exact.set_gradients(t);
      optimizer.step(model.ctx, rate, scale);
      reference.step(exact.ctx, rate, scale);
    }
    for (size_t n = 0; n < model.parameters.all().size(); ++n) {
      const Parameter& parameter = model.parameters.all()[n];
      const Tensor master = on_host(parameter.master);
      EXPECT_LE(relative_rms(master, exact.parameters.all()[n].master), 3e-7) << parameter.name;
      const Tensor& copy = parameter.variable.value();
      EXPECT_TRUE(bitwise_equal(on_host(copy), master.to(copy.dtype()))) << parameter.name;
    }
    const std::vector<NamedTensor> state = optimizer.state(), expected = reference.state();
    for (size_t n = 0; n < state.size(); ++n)
      EXPECT_LE(relative_rms(on_host(state[n].tensor), expected[n].tensor), 5e-7) << state[n].name;
  }
}

TEST(AdamWOnGpu, RoundsMomentsToBf16AsTheCpuDoes) {
  AdamWOptions options = kOptions;
  options.bf16_moments = true;
  Model model(poisoned_gpu(), DType::kBF16), other(Context(), DType::kBF16);
  AdamW optimizer(model.ctx, model.parameters, options);
  AdamW reference(other.ctx, other.parameters, options);
  for (int t = 1; t <= 3; ++t) {
    model.set_gradients(t);
    other.set_gradients(t);
    optimizer.step(model.ctx, 0.01);
    reference.step(other.ctx, 0.01);
  }
  const std::vector<NamedTensor> state = optimizer.state(), expected = reference.state();
  for (size_t n = 0; n < state.size(); ++n) {
    ASSERT_EQ(state[n].tensor.dtype(), DType::kBF16);
    // The same random numbers: only where fp32 values differ in their last bits may the roundings.
    const Tensor found = on_host(state[n].tensor);
    int64_t num_different = 0;
    for (int64_t i = 0; i < found.numel(); ++i)
      num_different += found.data<bf16>()[i].bits != expected[n].tensor.data<bf16>()[i].bits;
    EXPECT_LE(num_different, found.numel() / 200) << state[n].name;
  }
}

TEST(AdamWOnGpu, ClipsByANormThatTheHostDoesNotKnow) {
  for (double max_norm : {0.0, 1.0, 1e9}) {
    Model known(poisoned_gpu(), DType::kBF16), unknown(poisoned_gpu(), DType::kBF16);
    AdamW a(known.ctx, known.parameters, kOptions), b(unknown.ctx, unknown.parameters, kOptions);
    for (int t = 1; t <= 2; ++t) {
      known.set_gradients(t);
      unknown.set_gradients(t);
      a.step(known.ctx, 0.01, clip_scale(gradient_norm(known.ctx, known.parameters), max_norm));
      b.step(unknown.ctx, 0.01,
             Clipping{squared_gradient_norm(unknown.ctx, unknown.parameters), max_norm});
    }
    const std::vector<Tensor> x = masters(known), y = masters(unknown);
    for (size_t n = 0; n < x.size(); ++n) EXPECT_TRUE(bitwise_equal(x[n], y[n])) << n;
  }
}

TEST(AdamWOnGpu, ChangesNothingIfTheNormIsNotFinite) {
  Model model(poisoned_gpu(), DType::kBF16);
  AdamW optimizer(model.ctx, model.parameters, kOptions);
  model.set_gradients(1);
  optimizer.step(model.ctx, 0.01);
  const std::vector<Tensor> before = masters(model);
  const Tensor m = on_host(optimizer.state()[0].tensor);
  const float bad[] = {std::numeric_limits<float>::infinity()};
  model.parameters.all()[2]
      .variable.gradient()
      ->accumulate_into(model.ctx)
      .slice(0, 40000, 1)
      .copy_from(Tensor::from<float>(model.ctx.memory, {1}, bad));
  optimizer.step(model.ctx, 0.01,
                 Clipping{squared_gradient_norm(model.ctx, model.parameters), 1.0});
  const std::vector<Tensor> after = masters(model);
  for (size_t n = 0; n < before.size(); ++n) EXPECT_TRUE(bitwise_equal(before[n], after[n])) << n;
  EXPECT_TRUE(bitwise_equal(on_host(optimizer.state()[0].tensor), m));
}

TEST(AdamWOnGpu, GivesTheSameBitsAgain) {
  for (bool narrow : {false, true}) {
    AdamWOptions options = kOptions;
    options.bf16_moments = narrow;
    std::vector<Tensor> first;
    for (int repeat = 0; repeat < 3; ++repeat) {
      Model model(poisoned_gpu(), DType::kBF16);
      AdamW optimizer(model.ctx, model.parameters, options);
      for (int t = 1; t <= 3; ++t) {
        model.set_gradients(t);
        optimizer.step(model.ctx, 0.01,
                       Clipping{squared_gradient_norm(model.ctx, model.parameters), 1.0});
      }
      const std::vector<Tensor> found = masters(model);
      if (repeat == 0) first = found;
      for (size_t n = 0; n < found.size(); ++n) EXPECT_TRUE(bitwise_equal(found[n], first[n]));
    }
  }
}

}  // namespace
}  // namespace longship
