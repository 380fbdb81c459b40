#include "attention/linear/linear_mixer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/linear/linear_schedule.h"
#include "tests/attention/linear/linear_mixer_variants.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_linear_mixer.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::expect_error;
using testing::linear_variants;
using testing::random_tensor;
using testing::relative_rms;

const std::vector<int64_t> kDocuments = {0, 6, 7, 7, 13};

LinearMixerResources resources() {
  return {.schedule = make_linear_carry(make_local_states()),
          .sp = Group::self(),
          .rope_angles = std::make_shared<SharedRopeAngles>()};
}

// A mixer on one rank with its parameters, and tokens to mix.
struct Model {
  Tape tape;
  Context ctx;
  ParameterList parameters;
  LinearMixerOptions options;
  LinearMixer mixer;
  SequencePlan plan;
  Variable x_TE;
  Tensor dy_TE;

  Model(const LinearMixerOptions& chosen, DType dtype, std::vector<int64_t> cu_seqlens,
        int num_threads = 1)
      : parameters(with_threads(ctx, num_threads), dtype, /*seed=*/5),
        options(chosen),
        mixer(chosen, "layer", parameters, resources()),
        plan(SequencePlan::local(std::move(cu_seqlens))) {
    // Biases and norms start at 0 and 1, where mistakes would not show.
    for (Parameter& parameter : parameters.all())
      if (!parameter.decay)
        parameter.master.copy_from(
            random_tensor(ctx, parameter.master.shape(), parameter.name.size()));
    parameters.refresh_compute_copies();
    const Shape shape = {plan.num_tokens(), options.hidden_size};
    x_TE = Variable::leaf(random_tensor(ctx, shape, 1).to(dtype));
    dy_TE = random_tensor(ctx, shape, 2).to(dtype);
  }

  static Context& with_threads(Context& ctx, int num_threads) {
    ctx.num_threads = num_threads;
    return ctx;
  }

  Tensor value() { return mixer.forward(ctx, x_TE, plan).value(); }
  Tensor naive_value() const {
    return testing::naive_linear_mixer(ctx, options, parameters, "layer", x_TE.value(), plan);
  }

  // dy . y, by the formulas
  double naive_loss() const {
    const Tensor y_TE = naive_value();
    double sum = 0;
    for (int64_t i = 0; i < y_TE.numel(); ++i)
      sum += y_TE.data<double>()[i] * dy_TE.data<double>()[i];
    return sum;
  }

  // The output; gradients are then in `parameters` and x_TE.
  Tensor forward_and_backward() {
    ctx.tape = &tape;
    const Variable y_TE = mixer.forward(ctx, x_TE, plan);
    tape.backward(ctx, y_TE, dy_TE);
    ctx.tape = nullptr;
    return y_TE.value();
  }

  // x first, then the parameters.
  std::vector<std::pair<std::string, Variable>> leaves() const {
    std::vector<std::pair<std::string, Variable>> all = {{"x", x_TE}};
    for (const Parameter& parameter : parameters.all())
      all.emplace_back(parameter.name, parameter.variable);
    return all;
  }

  double* master(const std::string& name) const {
    return parameters.find(name)->master.data<double>();
  }
};

// d loss / d value of the plain formulas, by central differences of fourth order.
double numeric_slope(const Model& model, double& value, double step) {
  const double kept = value;
  auto at = [&](double offset) {
    value = kept + offset;
    return model.naive_loss();
  };
  const double near = at(step) - at(-step), far = at(2 * step) - at(-2 * step);
  value = kept;
  return (8 * near - far) / (12 * step);
}

// Every gradient of an fp64 model against the plain formulas.
void expect_central_differences(Model& model, const std::string& name, int64_t max_probes,
                                double least_effect) {
  model.forward_and_backward();
  for (const auto& [leaf_name, leaf] : model.leaves()) {
    ASSERT_TRUE(leaf.gradient()->defined()) << leaf_name;
    const Tensor gradient = leaf.gradient()->sum().contiguous();
    const int64_t count = gradient.numel(), probes = std::min<int64_t>(count, max_probes);
    double largest = 0;
    for (int64_t probe = 0; probe < probes; ++probe) {
      const int64_t i = count * probe / probes;
      const double numeric = numeric_slope(model, leaf.value().data<double>()[i], 1e-5);
      EXPECT_NEAR(gradient.data<double>()[i], numeric, 2e-7 * std::max(1.0, std::abs(numeric)))
          << name << ": " << leaf_name << " element " << i;
      largest = std::max(largest, std::abs(numeric));
    }
    EXPECT_GT(largest, least_effect) << name << ": " << leaf_name << " has no effect";
  }
}

TEST(LinearMixer, EqualsThePlainFormulas) {
  for (const auto& [name, options] : linear_variants()) {
    Model model(options, DType::kF64, kDocuments);
    EXPECT_LE(relative_rms(model.value(), model.naive_value()), 1e-12) << name;
  }
}

TEST(LinearMixer, GradientsAreCentralDifferencesOfThePlainFormulas) {
  for (const auto& [name, options] : linear_variants()) {
    Model model(options, DType::kF64, kDocuments);
    expect_central_differences(model, name, 7, 1e-5);
  }
}

// Gates of -5 and -1e-4 a step in turn, beta near 2, keys of almost no length, long documents.
Model extreme_model(const LinearMixerOptions& options, DType dtype) {
  LinearMixerOptions chosen = options;
  if (chosen.delta_rule) chosen.max_beta = 2;
  return Model(chosen, dtype, {0, 90, 91, 160});
}

void make_extreme(Model& wide) {
  const std::string module =
      wide.options.backend == "mamba2" ? "layer.mamba." : "layer.linear_attn.";
  auto inverse_softplus = [](double y) { return y + std::log(-std::expm1(-y)); };
  if (const Parameter* bias = wide.parameters.find(module + "dt_bias")) {
    double* values = bias->master.data<double>();
    const bool is_bounded = wide.options.gate == GateLaw::kBounded;
    for (int64_t i = 0; i < bias->master.numel(); ++i) {
      const double decay = i % 2 == 0 ? (is_bounded ? 4.999 : 5) : 1e-4;
      values[i] = is_bounded ? -std::log(5 / decay - 1) : inverse_softplus(decay);
    }
    double* rates = wide.master(module + "A_log");
    std::fill_n(rates, wide.options.num_heads, 0.0);
  }
  // The first feature of every token is 1, and turns beta to 2 (1 - 2e-4).
  for (int64_t t = 0; t < wide.x_TE.dim(0); ++t)
    wide.x_TE.value().data<double>()[t * wide.options.hidden_size] = 1;
  for (int64_t h = 0; wide.options.delta_rule && h < wide.options.num_heads; ++h)
    wide.master(module + "b_proj.weight")[h * wide.options.hidden_size] = 9;
}

TEST(LinearMixer, HoldsAtExtremeGatesAndBetaNearTwo) {
  for (const auto& [name, options] : linear_variants()) {
    if (options.gate != GateLaw::kSoftplus && options.gate != GateLaw::kBounded) continue;
    Model wide = extreme_model(options, DType::kF64);
    make_extreme(wide);
    EXPECT_LE(relative_rms(wide.value(), wide.naive_value()), 1e-11) << name;
    expect_central_differences(wide, name, 3, 0);
    // fp32, from the same numbers
    Model low = extreme_model(options, DType::kF32);
    auto low_leaves = low.leaves(), wide_leaves = wide.leaves();
    for (size_t i = 0; i < low_leaves.size(); ++i)
      low_leaves[i].second.value().copy_from(wide_leaves[i].second.value());
    EXPECT_LE(relative_rms(low.forward_and_backward(), wide.naive_value()), 2e-5) << name;
    for (size_t i = 0; i < low_leaves.size(); ++i)
      EXPECT_LE(relative_rms(low_leaves[i].second.gradient()->sum(),
                             wide_leaves[i].second.gradient()->sum()),
                2e-4)  // gradients of biases cancel over tokens
          << name << " " << low_leaves[i].first;
  }
}

TEST(LinearMixer, HoldsForKeysOfAlmostNoLength) {
  for (const auto& [name, options] : linear_variants()) {
    if (options.qk_norm != QkNorm::kL2) continue;
    Model model(options, DType::kF64, kDocuments);
    const Parameter* keys = model.parameters.find("layer.linear_attn.k_proj.weight");
    for (int64_t i = 0; i < keys->master.numel(); ++i) keys->master.data<double>()[i] *= 1e-3;
    EXPECT_LE(relative_rms(model.value(), model.naive_value()), 1e-12) << name;
    model.forward_and_backward();
    const Tensor dk = keys->variable.gradient()->sum();
    for (int64_t i = 0; i < keys->master.numel(); i += 9) {
      const double numeric = numeric_slope(model, keys->master.data<double>()[i], 1e-6);
      EXPECT_NEAR(dk.data<double>()[i], numeric, 1e-6 * std::max(1.0, std::abs(numeric))) << name;
    }
  }
}

TEST(LinearMixer, LowPrecisionIsNearFp64) {
  for (const auto& [name, options] : linear_variants())
    for (const auto& [dtype, bound] : {std::pair{DType::kF32, 2e-5}, {DType::kBF16, 0.1}}) {
      // Parameters and tokens that bf16 holds exactly.
      Model low(options, dtype, kDocuments), wide(options, DType::kF64, kDocuments);
      auto low_leaves = low.leaves(), wide_leaves = wide.leaves();
      for (size_t i = 0; i < low_leaves.size(); ++i) {
        const Tensor rounded = wide_leaves[i].second.value().to(DType::kBF16);
        low_leaves[i].second.value().copy_from(rounded);
        wide_leaves[i].second.value().copy_from(rounded);
      }
      low.dy_TE = wide.dy_TE.to(DType::kBF16).to(dtype);
      wide.dy_TE = low.dy_TE.to(DType::kF64);
      const Tensor y = low.forward_and_backward();
      EXPECT_EQ(y.dtype(), dtype);
      EXPECT_LE(relative_rms(y, wide.forward_and_backward()), bound) << name;
      for (size_t i = 0; i < low_leaves.size(); ++i)
        EXPECT_LE(relative_rms(low_leaves[i].second.gradient()->sum(),
                               wide_leaves[i].second.gradient()->sum()),
                  bound)
            << name << " " << dtype_name(dtype) << " " << low_leaves[i].first;
    }
}

TEST(LinearMixer, EveryNumberOfThreadsGivesTheSameBits) {
  for (const auto& [name, options] : linear_variants()) {
    const std::vector<int64_t> documents = {0, 70, 71, 100};
    Model one(options, DType::kF32, documents), many(options, DType::kF32, documents, 3);
    EXPECT_TRUE(bitwise_equal(many.forward_and_backward(), one.forward_and_backward())) << name;
    auto found = many.leaves(), wanted = one.leaves();
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_TRUE(
          bitwise_equal(found[i].second.gradient()->sum(), wanted[i].second.gradient()->sum()))
          << name << " " << found[i].first;
  }
}

TEST(LinearMixer, WorksOnARankThatHoldsNoToken) {
  for (const auto& [name, options] : linear_variants()) {
    Model model(options, DType::kF32, {0});
    EXPECT_EQ(model.forward_and_backward().shape(), (Shape{0, 7})) << name;
  }
}

std::vector<std::string> parameter_names(const LinearMixerOptions& options) {
  Context ctx;
  ParameterList parameters(ctx, DType::kBF16, 1);
  const LinearMixer mixer(options, "l", parameters, resources());
  std::vector<std::string> found;
  for (const Parameter& parameter : parameters.all())
    found.push_back(fmt::format("{} {}{}{}", parameter.name, shape_string(parameter.master.shape()),
                                parameter.decay ? "" : " no decay",
                                parameter.variable.dtype() == DType::kF32 ? " fp32" : ""));
  return found;
}

TEST(LinearMixer, NamesAndShapesAreThoseOfCheckpoints) {
  auto of = [](const std::string& name) {
    for (const auto& [found, options] : linear_variants())
      if (found == name) return parameter_names(options);
    return std::vector<std::string>();
  };
  EXPECT_EQ(of("Qwen3-Next"),
            (std::vector<std::string>{
                "l.linear_attn.q_proj.weight [8, 7]", "l.linear_attn.q_conv1d.weight [8, 1, 4]",
                "l.linear_attn.k_proj.weight [8, 7]", "l.linear_attn.k_conv1d.weight [8, 1, 4]",
                "l.linear_attn.v_proj.weight [20, 7]", "l.linear_attn.v_conv1d.weight [20, 1, 4]",
                "l.linear_attn.a_proj.weight [4, 7]", "l.linear_attn.A_log [4] no decay fp32",
                "l.linear_attn.dt_bias [4] no decay fp32", "l.linear_attn.b_proj.weight [4, 7]",
                "l.linear_attn.g_proj.weight [20, 7]", "l.linear_attn.o_norm.weight [5] no decay",
                "l.linear_attn.o_proj.weight [7, 20]"}));
  EXPECT_EQ(of("Mamba-2"),
            (std::vector<std::string>{
                "l.mamba.C_proj.weight [8, 7]", "l.mamba.C_conv1d.weight [8, 1, 4]",
                "l.mamba.C_conv1d.bias [8] no decay", "l.mamba.B_proj.weight [8, 7]",
                "l.mamba.B_conv1d.weight [8, 1, 4]", "l.mamba.B_conv1d.bias [8] no decay",
                "l.mamba.x_proj.weight [20, 7]", "l.mamba.x_conv1d.weight [20, 1, 4]",
                "l.mamba.x_conv1d.bias [20] no decay", "l.mamba.dt_proj.weight [4, 7]",
                "l.mamba.A_log [4] no decay fp32", "l.mamba.dt_bias [4] no decay fp32",
                "l.mamba.D [4] no decay fp32", "l.mamba.z_proj.weight [20, 7]",
                "l.mamba.norm.weight [20] no decay", "l.mamba.out_proj.weight [7, 20]"}));
  const std::vector<std::string> kimi = of("Kimi Linear");
  for (const char* name :
       {"l.linear_attn.f_a_proj.weight [5, 7]", "l.linear_attn.f_b_proj.weight [16, 5]",
        "l.linear_attn.dt_bias [16] no decay fp32", "l.linear_attn.g_a_proj.weight [5, 7]",
        "l.linear_attn.g_b_proj.weight [20, 5]", "l.linear_attn.g_b_proj.bias [20] no decay"})
    EXPECT_NE(std::find(kimi.begin(), kimi.end(), name), kimi.end()) << name;
}

TEST(LinearMixer, StartsAsThePublishedModelsDo) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF64, 3);
  LinearMixerOptions options = LinearMixerOptions::for_backend("gated_delta");
  options.hidden_size = 64;
  options.num_heads = 16;
  options.key_size = options.value_size = 8;
  options.num_layers = 8;
  const LinearMixer mixer(options, "l", parameters, resources());
  auto values = [&](const std::string& name) {
    const Tensor& master = parameters.find("l.linear_attn." + name)->master;
    return std::vector<double>(master.data<double>(), master.data<double>() + master.numel());
  };
  for (const double value : values("A_log")) EXPECT_LE(std::exp(value), 16);
  for (const double value : values("dt_bias")) {
    EXPECT_GE(std::log1p(std::exp(value)), 1e-3 - 1e-12);
    EXPECT_LE(std::log1p(std::exp(value)), 0.1 + 1e-12);
  }
  for (const double value : values("q_conv1d.weight")) EXPECT_LE(std::abs(value), 0.5);
  for (const auto& [name, deviation] :
       {std::pair<std::string, double>{"q_proj.weight", 0.02}, {"o_proj.weight", 0.005}}) {
    double square = 0;
    const std::vector<double> found = values(name);
    for (const double value : found) square += value * value;
    EXPECT_NEAR(std::sqrt(square / static_cast<double>(found.size())), deviation, 0.05 * deviation);
  }
}

}  // namespace
}  // namespace longship
