#include "attention/linear/linear_mixer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/linear/linear_schedule.h"
#include "tests/attention/linear/linear_mixer_variants.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mixer_model.h"
#include "tests/support/naive_linear_mixer.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::linear_variants;
using testing::MixerModel;
using testing::relative_rms;

const std::vector<int64_t> kDocuments = {0, 6, 7, 7, 13};

LinearMixerResources resources() {
  return {.schedule = make_linear_carry(make_local_states()),
          .sp = Group::self(),
          .rope_angles = std::make_shared<SharedRopeAngles>()};
}

MixerModel model_of(const LinearMixerOptions& options, DType dtype,
                    const std::vector<int64_t>& cu_seqlens = kDocuments, int num_threads = 1) {
  return {[&](ParameterList& parameters) {
            return std::make_unique<LinearMixer>(options, "layer", parameters, resources());
          },
          options.hidden_size, dtype, SequencePlan::local(cu_seqlens), num_threads};
}

Tensor value(MixerModel& model) {
  return model.mixer->forward(model.ctx, model.x_TE, model.plan).value();
}

// An fp64 model beside the plain formulas of its options.
struct Model {
  LinearMixerOptions options;
  MixerModel mixed;

  Model(const LinearMixerOptions& chosen, const std::vector<int64_t>& cu_seqlens)
      : options(chosen), mixed(model_of(chosen, DType::kF64, cu_seqlens)) {}

  Tensor naive_value() const {
    return testing::naive_linear_mixer(mixed.ctx, options, mixed.parameters, "layer",
                                       mixed.x_TE.value(), mixed.plan);
  }

  // dy . y, by the formulas
  double naive_loss() const {
    const Tensor y_TE = naive_value();
    double sum = 0;
    for (int64_t i = 0; i < y_TE.numel(); ++i)
      sum += y_TE.data<double>()[i] * mixed.dy_TE.data<double>()[i];
    return sum;
  }

  double* master(const std::string& name) const { return mixed.parameter(name).data<double>(); }
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
  model.mixed.forward_and_backward();
  for (const auto& [leaf_name, leaf] : model.mixed.leaves()) {
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
    Model model(options, kDocuments);
    EXPECT_LE(relative_rms(value(model.mixed), model.naive_value()), 1e-12) << name;
  }
}

TEST(LinearMixer, GradientsAreCentralDifferencesOfThePlainFormulas) {
  for (const auto& [name, options] : linear_variants()) {
    Model model(options, kDocuments);
    expect_central_differences(model, name, 7, 1e-5);
  }
}

// Gates of -5 and -1e-4 a step in turn, beta near 2, keys of almost no length, long documents.
const std::vector<int64_t> kLongDocuments = {0, 90, 91, 160};

void make_extreme(Model& wide) {
  const std::string module =
      wide.options.backend == "mamba2" ? "layer.mamba." : "layer.linear_attn.";
  auto inverse_softplus = [](double y) { return y + std::log(-std::expm1(-y)); };
  if (const Parameter* bias = wide.mixed.parameters.find(module + "dt_bias")) {
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
  const Tensor x_TE = wide.mixed.x_TE.value();
  for (int64_t t = 0; t < x_TE.dim(0); ++t) x_TE.data<double>()[t * wide.options.hidden_size] = 1;
  for (int64_t h = 0; wide.options.delta_rule && h < wide.options.num_heads; ++h)
    wide.master(module + "b_proj.weight")[h * wide.options.hidden_size] = 9;
}

TEST(LinearMixer, HoldsAtExtremeGatesAndBetaNearTwo) {
  for (auto [name, options] : linear_variants()) {
    if (options.gate != GateLaw::kSoftplus && options.gate != GateLaw::kBounded) continue;
    if (options.delta_rule) options.max_beta = 2;
    Model wide(options, kLongDocuments);
    make_extreme(wide);
    EXPECT_LE(relative_rms(value(wide.mixed), wide.naive_value()), 1e-11) << name;
    expect_central_differences(wide, name, 3, 0);
    // fp32, from the same numbers
    MixerModel low = model_of(options, DType::kF32, kLongDocuments);
    auto low_leaves = low.leaves(), wide_leaves = wide.mixed.leaves();
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
    Model model(options, kDocuments);
    const Parameter* keys = model.mixed.parameters.find("layer.linear_attn.k_proj.weight");
    for (int64_t i = 0; i < keys->master.numel(); ++i) keys->master.data<double>()[i] *= 1e-3;
    EXPECT_LE(relative_rms(value(model.mixed), model.naive_value()), 1e-12) << name;
    model.mixed.forward_and_backward();
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
      SCOPED_TRACE(name);
      testing::check_mixer_precision(
          [&, &chosen = options](DType of, int) { return model_of(chosen, of); }, dtype, bound);
    }
}

TEST(LinearMixer, EveryNumberOfThreadsGivesTheSameBits) {
  for (const auto& [name, options] : linear_variants()) {
    SCOPED_TRACE(name);
    testing::check_mixer_thread_invariance([&, &chosen = options](DType dtype, int num_threads) {
      return model_of(chosen, dtype, {0, 70, 71, 100}, num_threads);
    });
  }
}

TEST(LinearMixer, WorksOnARankThatHoldsNoToken) {
  for (const auto& [name, options] : linear_variants()) {
    MixerModel model = model_of(options, DType::kF32, {0});
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
