#include "launch/validate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "launch/config.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

constexpr const char* kGood = R"(
output_dir: "out" data { tokens: "a.tokens" }
model { hidden_size: 32 intermediate_size: 48 num_layers: 2 attention { num_heads: 4 } }
optim { learning_rate: 1e-3 } train { steps: 10 context: 64 }
)";

config::Run good(std::vector<std::string> overrides = {}) {
  return parse_config(kGood, "good", overrides);
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
  expect_problem({"model.attention.rotary_dim=10"}, 1, "head size");
  expect_problem({"model.attention.rope_theta=inf"}, 1, "rope_theta");
  expect_problem({"model.attention.window=-1"}, 1, "window");
  expect_problem({"train.context=3"}, 4, "cannot be split");
  expect_problem({"train.global_batch=3", "train.micro_batch=2"}, 1, "use 4");
  expect_problem({"parallel.sp=2"}, 3, "do not fit 3 ranks");
  expect_problem({"parallel.sp=2", "parallel.dp=2"}, 2, "do not fit 2 ranks");
  expect_problem({"parallel.strategy=local"}, 2, "local");
  expect_problem({"parallel.strategy=spiral"}, 2, "spiral");
  expect_problem({"parallel.timeout_s=0"}, 1, "timeout_s");
  expect_problem({"optim.beta2=1"}, 1, "beta2");
  expect_problem({"optim.warmup_steps=11"}, 1, "exceed train.steps");
  expect_problem({"optim.decay_steps=3"}, 1, "WSD");
  expect_problem({"optim.clip_norm=nan"}, 1, "clip_norm");
  expect_problem({"telemetry.log_every=0"}, 1, "log_every");
  expect_problem({"checkpoint.keep=-1"}, 1, "keep");
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
