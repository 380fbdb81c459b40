#include "launch/validate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "launch/config.h"
#include "tests/support/expect_error.h"
#include "tests/support/small_run.h"

namespace longship {
namespace {

config::Run good(std::vector<std::string> overrides = {}) {
  return parse_config(testing::kSmallRun, "good", overrides);
}

void expect_problem(const std::vector<std::string>& overrides, int ranks, const std::string& word) {
  const std::vector<std::string> problems = find_problems(good(overrides), ranks);
  EXPECT_TRUE(std::any_of(problems.begin(), problems.end(),
                          [&](const std::string& p) { return p.find(word) != std::string::npos; }))
      << overrides[0] << " on " << ranks << " ranks: " << problems.size() << " other problems";
}

TEST(Validate, AcceptsTheGoodConfigurationOnAnyNumberOfRanks) {
  for (int ranks : {1, 2, 3, 4, 8}) EXPECT_TRUE(find_problems(good(), ranks).empty()) << ranks;
}

TEST(Validate, FindsEachBrokenRule) {
  expect_problem({"output_dir="}, 1, "output_dir");
  expect_problem({"data.tokens="}, 1, "data.tokens");
  expect_problem({"model.hidden_size=30"}, 1, "not a multiple");
  expect_problem({"model.hidden_size=-32"}, 1, "model.hidden_size");
  expect_problem({"model.num_layers=0"}, 1, "model.num_layers");
  expect_problem({"model.attention.num_kv_heads=3"}, 1, "num_kv_heads");
  expect_problem({"model.attention.head_size=7"}, 1, "even");
  expect_problem({"model.attention.rotary_dim=10"}, 1, "up to head_size 8");
  expect_problem({"model.attention.rope_theta=0.5"}, 1, "above 1, or 0");
  expect_problem({"model.attention.num_heads=1048577"}, 1, "above 1048576");
  expect_problem({"model.num_layers=65537"}, 1, "1 to 65536");
  expect_problem({"model.layers=full"}, 1, "exclude each other");
  expect_problem({"model.attention.rope_theta=inf"}, 1, "rope_theta");
  expect_problem({"model.attention.window=-1"}, 1, "window");
  expect_problem({"model.attention.qk_norm_across_heads=true"}, 1, "without qk_norm");
  expect_problem({"train.context=3"}, 4, "cannot be split");
  expect_problem({"train.global_batch=3", "train.micro_batch=2"}, 1, "use 4");
  expect_problem({"parallel.sp=2"}, 3, "do not fit 3 ranks");
  expect_problem({"parallel.sp=2", "parallel.dp=2"}, 2, "do not fit 2 ranks");
  expect_problem({"parallel.strategy=local"}, 2, "local");
  expect_problem({"parallel.strategy=spiral"}, 2, "spiral");
  expect_problem({"parallel.linear_strategy=zeko"}, 2,
                 "parallel.linear_strategy: unknown strategy");
  expect_problem({"parallel.strategy=halo"}, 2, "serves only layers with a sliding window");
  expect_problem({"parallel.strategy=lightseq"}, 2, "choose the layout `contiguous`");
  expect_problem({"parallel.timeout_s=0"}, 1, "timeout_s");
  expect_problem({"train.recompute=BLOCK", "train.recompute_layers=-1"}, 1, "between 0 (all) and");
  expect_problem({"train.recompute=BLOCK", "train.recompute_layers=99"}, 1, "model.num_layers");
  expect_problem({"train.recompute=NONE", "train.recompute_layers=1"}, 1, "SELECTIVE or BLOCK");
  expect_problem({"optim.beta2=1"}, 1, "beta2");
  expect_problem({"optim.warmup_steps=11"}, 1, "exceed train.steps");
  expect_problem({"optim.decay_steps=3"}, 1, "WSD");
  expect_problem({"optim.clip_norm=nan"}, 1, "clip_norm");
  expect_problem({"telemetry.log_every=0"}, 1, "log_every");
  expect_problem({"telemetry.peak_tflops=-1"}, 1, "telemetry.peak_tflops");
  expect_problem({"checkpoint.keep=-1"}, 1, "keep");
}

config::Run hybrid(const std::string& layers, const std::string& mixers) {
  return parse_config(fmt::format(R"(
output_dir: "out" data {{ tokens: "a.tokens" }}
model {{ hidden_size: 32 intermediate_size: 48 num_layers: 4 layers: "{}" {} }}
optim {{ learning_rate: 1e-3 }} train {{ steps: 10 context: 64 }})",
                                  layers, mixers),
                      "hybrid", {});
}

constexpr const char* kTwoMixers = R"(
mixer { name: "full" attention { num_heads: 4 } }
mixer { name: "nope" backend: "full" strategy: "ulysses"
        attention { num_heads: 2 num_kv_heads: 1 rope_theta: 0 } }
)";

void expect_hybrid_problem(const std::string& layers, const std::string& mixers,
                           const std::string& word) {
  const std::vector<std::string> problems = find_problems(hybrid(layers, mixers), 2);
  EXPECT_TRUE(std::any_of(problems.begin(), problems.end(),
                          [&](const std::string& p) { return p.find(word) != std::string::npos; }))
      << layers << " " << mixers << ": " << fmt::format("{}", fmt::join(problems, "; "));
}

TEST(Validate, AcceptsAndResolvesAHybrid) {
  config::Run run = hybrid("full, nope", kTwoMixers);
  EXPECT_TRUE(find_problems(run, 2).empty());
  resolve_automatic_values(run, 2);
  EXPECT_EQ(run.model().mixer(0).backend(), "full");
  EXPECT_EQ(run.model().mixer(1).attention().head_size(), 16);
  EXPECT_TRUE(find_problems(run, 2).empty());
  EXPECT_FALSE(run.model().has_attention());
}

TEST(Validate, AutoIsAStrategyOfEveryMixer) {
  EXPECT_TRUE(
      find_problems(good({"parallel.strategy=auto", "parallel.linear_strategy=auto"}), 3).empty());
}

TEST(Validate, LinearLayersTakeTheirBackendsDefaults) {
  config::Run run = hybrid("gated_delta, full", R"(
mixer { name: "gated_delta" linear { num_heads: 4 key_size: 8 value_size: 16 max_beta: 2 } }
mixer { name: "full" attention { num_heads: 4 } }
)");
  EXPECT_TRUE(find_problems(run, 2).empty());
  resolve_automatic_values(run, 2);
  const config::LinearAttention& linear = run.model().mixer(0).linear();
  EXPECT_EQ(linear.conv_size(), 4);
  EXPECT_EQ(linear.gate(), "softplus");
  EXPECT_EQ(linear.num_key_heads(), 4);
  EXPECT_EQ(linear.max_beta(), 2);
}

TEST(Validate, FindsEachBrokenRuleOfAHybrid) {
  expect_hybrid_problem("full, nope, full", kTwoMixers, "num_layers: 3");
  expect_hybrid_problem("full, nope,", kTwoMixers, "character 12");
  expect_hybrid_problem("full, none", kTwoMixers, "names `none`");
  expect_hybrid_problem("full", kTwoMixers, "model.mixer.nope stands nowhere");
  expect_hybrid_problem("full + nope", kTwoMixers, "weights in `self_attn`");
  expect_hybrid_problem("", kTwoMixers, "model.mixer is given without model.layers");
  expect_hybrid_problem("full", "mixer { name: 'full' } ",
                        "model.mixer.full.attention is required");
  expect_hybrid_problem("full", "mixer { name: 'full' linear {} attention { num_heads: 4 } }",
                        "model.mixer.full.linear has no meaning");
  expect_hybrid_problem("flash", "mixer { name: 'flash' attention { num_heads: 4 } }",
                        "unknown attention backend `flash`");
  expect_hybrid_problem("full", "mixer { name: '2full' attention { num_heads: 4 } }", "`2full`");
  expect_hybrid_problem("full", std::string(kTwoMixers) + kTwoMixers, "full is given twice");
  expect_hybrid_problem("full", "mixer { name: 'full' attention { num_heads: 3 head_size: 7 } }",
                        "model.mixer.full.attention: rotary_dim 7");
  expect_hybrid_problem("full",
                        "mixer { name: 'full' strategy: 'local' attention { num_heads: 4 } }",
                        "model.mixer.full.strategy: strategy `local` serves at most 1 rank");
  expect_hybrid_problem("full",
                        "mixer { name: 'full' strategy: 'zeco' attention { num_heads: 4 } }",
                        "does not serve softmax layers: choose ulysses or ring");
  expect_hybrid_problem("full",
                        "mixer { name: 'full' output_multiplier: nan attention { num_heads: 4 } }",
                        "multiplier nan");
  expect_hybrid_problem("mamba2 + full", R"(
mixer { name: "mamba2" linear { num_heads: 4 key_size: 8 value_size: 8 } }
mixer { name: "full" norm_after: true attention { num_heads: 4 } }
)",
                        "`mamba2` and `full` share a layer and differ in norm_after");
}

TEST(Validate, ReportsAllProblemsInOneError) {
  testing::expect_error(ErrorCode::kConfig, {"3 problems", "num_layers", "steps", "beta1"}, [] {
    validate(good({"model.num_layers=0", "train.steps=0", "optim.beta1=2"}), 1, "good");
  });
}

TEST(Validate, HugeNumbersDoNotOverflow) {
  EXPECT_FALSE(find_problems(good({"train.micro_batch=9223372036854775807",
                                   "train.global_batch=9223372036854775807",
                                   "optim.warmup_steps=9223372036854775807"}),
                             8)
                   .empty());
  EXPECT_FALSE(
      find_problems(good({"parallel.sp=2147483647", "parallel.dp=2147483647"}), 8).empty());
}

TEST(Validate, AutomaticValuesUseAllRanks) {
  config::Run run = good({"parallel.sp=2"});
  resolve_automatic_values(run, 6);
  EXPECT_EQ(run.parallel().dp(), 3);
  EXPECT_EQ(run.model().attention().num_kv_heads(), 4);
  EXPECT_EQ(run.model().attention().head_size(), 8);
  run = good();
  resolve_automatic_values(run, 6);
  EXPECT_EQ(run.parallel().sp(), 6);
  EXPECT_EQ(run.parallel().dp(), 1);
}

}  // namespace
}  // namespace longship
