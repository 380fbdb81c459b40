#include "attention/linear/linear_mixer_options.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/linear/linear_mixer.h"
#include "tests/attention/linear/linear_mixer_variants.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

using testing::expect_error;

LinearMixerOptions sized(std::string_view backend) {
  LinearMixerOptions options = LinearMixerOptions::for_backend(backend);
  options.hidden_size = 8;
  options.num_heads = 4;
  options.key_size = 4;
  options.value_size = 6;
  return options;
}

TEST(LinearMixerOptions, EveryFamilyNeedsSizesOnly) {
  EXPECT_EQ(linear_families().size(), 10u);
  for (const LinearFamily& family : linear_families()) {
    EXPECT_EQ(sized(family.name).problems(), std::vector<std::string>()) << family.name;
    const std::string missing =
        fmt::format("{}", fmt::join(LinearMixerOptions::for_backend(family.name).problems(), "; "));
    for (const char* size : {"hidden_size 0", "num_heads 0", "key_size 0", "value_size 0"})
      EXPECT_NE(missing.find(size), std::string::npos) << family.name << ": " << missing;
  }
  for (const auto& [name, options] : testing::linear_variants())
    EXPECT_EQ(options.problems(), std::vector<std::string>()) << name;
}

TEST(LinearMixerOptions, RefuseAnUnknownFamilyAndNameTheKnown) {
  expect_error(ErrorCode::kConfig, {"`mamba3`", "lightning", "mamba2", "kda"},
               [] { LinearMixerOptions::for_backend("mamba3"); });
}

TEST(LinearMixerOptions, NameEachThatIsWrong) {
  auto refuses = [](std::string_view backend, const std::string& part, auto&& change) {
    LinearMixerOptions options = sized(backend);
    change(options);
    const std::vector<std::string> problems = options.problems();
    ASSERT_EQ(problems.size(), 1u) << part << ": " << fmt::format("{}", fmt::join(problems, "; "));
    EXPECT_NE(problems[0].find(part), std::string::npos) << problems[0];
  };
  using Options = LinearMixerOptions;
  const double nan = std::nan("");
  refuses("kda", "backend `x`", [](Options& o) { o.backend = "x"; });
  refuses("kda", "hidden_size 0", [](Options& o) { o.hidden_size = 0; });
  refuses("kda", "num_key_heads 3", [](Options& o) { o.num_key_heads = 3; });
  refuses("kda", "num_key_heads -1", [](Options& o) { o.num_key_heads = -1; });
  refuses("kda", "key_size 0", [](Options& o) { o.key_size = 0; });
  refuses("kda", "value_size -2", [](Options& o) { o.value_size = -2; });
  refuses("kda", "conv_size 17", [](Options& o) { o.conv_size = 17; });
  refuses("kda", "conv_bias", [](Options& o) { o.conv_size = 0, o.conv_bias = true; });
  refuses("retention", "rope_theta -1", [](Options& o) { o.rope_theta = -1; });
  refuses("retention", "rotary_dim 6", [](Options& o) { o.rotary_dim = 6; });
  refuses("retention", "rotary_dim 5", [](Options& o) { o.key_size = 5; });
  refuses("retention", "normalized", [](Options& o) { o.normalized = true; });
  refuses("retention", "scale", [&](Options& o) { o.scale = nan; });
  refuses("retention", "gate_per_key", [](Options& o) { o.gate_per_key = true; });
  refuses("gla", "taylor_map", [](Options& o) { o.taylor_map = true; });
  refuses("gla", "gate_rank -2", [](Options& o) { o.gate_rank = -2; });
  refuses("gla", "gate_normalizer 0", [](Options& o) { o.gate_normalizer = 0; });
  refuses("kda", "gate_lower_bound 1",
          [](Options& o) { o.gate = GateLaw::kBounded, o.gate_lower_bound = 1; });
  refuses("kda", "rates from 2 to 1", [](Options& o) { o.rate_low = 2, o.rate_high = 1; });
  refuses("hgrn2", "forget_floor 1", [](Options& o) { o.forget_floor = 1; });
  refuses("hgrn2", "gate_per_key", [](Options& o) { o.gate_per_key = false; });
  refuses("hgrn2", "key heads", [](Options& o) { o.num_key_heads = 2; });
  refuses("hgrn2", "qk_norm", [](Options& o) { o.qk_norm = QkNorm::kL2; });
  refuses("kda", "max_beta 2.5", [](Options& o) { o.max_beta = 2.5; });
  refuses("kda", "step_size", [](Options& o) { o.step_size = true; });
  refuses("kda", "norm_eps 0", [](Options& o) { o.norm_eps = 0; });
  refuses("kda", "output_gate_rank -3", [](Options& o) { o.output_gate_rank = -3; });
  refuses("hgrn2", "after the gate", [](Options& o) { o.norm_before_gate = false; });
  refuses("hgrn2", "by groups", [](Options& o) { o.output_norm = OutputNorm::kGroup; });
  refuses("kda", "init_std -1", [](Options& o) { o.init_std = -1; });
  refuses("lightning", "layer_index 1", [](Options& o) { o.layer_index = 1; });
  refuses("mamba2", "steps from 2 to 1", [](Options& o) { o.step_low = 2, o.step_high = 1; });
  refuses("mamba2", "steps from -1", [](Options& o) { o.step_low = -1; });
  refuses("gated_delta", "without step_size", [](Options& o) { o.step_high = 1; });
  LinearMixerOptions none = sized("lightning");
  none.num_layers = 0;
  EXPECT_EQ(none.problems().size(), 2u);  // layer_index is not below it either
}

TEST(LinearMixerOptions, MixerNamesItsLayerAndAllThatIsWrong) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF32, 1);
  LinearMixerOptions options = sized("mamba2");
  options.num_key_heads = 3;
  options.norm_eps = -1;
  expect_error(ErrorCode::kConfig, {"model.layers.3.mamba", "num_key_heads 3", "norm_eps -1"},
               [&] { LinearMixer(options, "model.layers.3", parameters, {}); });
  EXPECT_EQ(parameters.all().size(), 0u);
}

TEST(LinearMixerOptions, ConstantDecaysAreThoseOfThePapers) {
  LinearMixerOptions options = sized("retention");
  EXPECT_EQ(options.constant_log_decays(),
            (std::vector<double>{std::log1p(-1.0 / 32), std::log1p(-1.0 / 64),
                                 std::log1p(-1.0 / 128), std::log1p(-1.0 / 256)}));
  options.decay = DecayLaw::kAlibi;
  EXPECT_EQ(options.constant_log_decays(),
            (std::vector<double>{-0.25, -1.0 / 16, -1.0 / 64, -1.0 / 256}));
  // As ALiBi's code has it for head counts between powers of two.
  options.num_heads = 3;
  EXPECT_EQ(options.constant_log_decays(), (std::vector<double>{-1.0 / 16, -1.0 / 256, -1.0 / 4}));
  options.num_heads = 12;
  std::vector<double> twelve;
  for (double exponent : {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.5, 1.5, 2.5, 3.5})
    twelve.push_back(-std::exp2(-exponent));
  EXPECT_EQ(options.constant_log_decays(), twelve);
  options = sized("lightning");
  options.num_layers = 5;
  options.layer_index = 4;  // the last layer hardly decays
  EXPECT_NEAR(options.constant_log_decays()[0], -0.25 * 1.25e-5, 1e-8);
  options.layer_index = 2;
  EXPECT_NEAR(options.constant_log_decays()[0], -0.125, 1e-5);
}

}  // namespace
}  // namespace longship
