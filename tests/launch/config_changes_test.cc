#include "launch/config_changes.h"

#include <gtest/gtest.h>

#include "tests/support/small_run.h"

namespace longship {
namespace {

using testing::kSmallRun;

constexpr const char* kMixer = R"(
model { hidden_size: 32 num_layers: 2 layers: "full"
        mixer { name: "full" strategy: "ring" attention { num_heads: 4 } } }
)";

config::Run with(const char* text, const std::vector<std::string>& overrides) {
  return parse_config(text, "test", overrides);
}

TEST(ConfigChanges, AResumedRunMayLearnFasterButNotSomethingElse) {
  const ConfigChanges changes = changes_on_resume(
      with(kSmallRun, {}),
      with(kSmallRun, {"train.steps=20", "optim.learning_rate=0.5", "train.seed=3",
                       "optim.bf16_moments=true", "model.attention.rope_theta=80000"}));
  EXPECT_EQ(changes.allowed, "\n    optim.learning_rate: 0.001 -> 0.5\n    train.steps: 10 -> 20");
  EXPECT_EQ(changes.forbidden,
            "\n    model.attention.rope_theta: 10000 -> 80000"
            "\n    optim.bf16_moments: false -> true\n    train.seed: 0 -> 3");
  const ConfigChanges strategy =
      changes_on_resume(with(kMixer, {}), with(kMixer, {"model.mixer.full.strategy=usp"}));
  EXPECT_EQ(strategy.allowed, "\n    model.mixer.full.strategy: \"ring\" -> \"usp\"");
  EXPECT_EQ(strategy.forbidden, "");
}

TEST(ConfigChanges, AnOriginMayHaveSeenLessButNotBeReadInAnotherWay) {
  const ConfigChanges changes = changes_from_origin(
      with(kSmallRun, {}),
      with(kSmallRun, {"train.context=512", "train.seed=3", "optim.learning_rate=0.5",
                       "model.attention.rope_theta=80000", "model.attention.window=16",
                       "model.attention.num_heads=2", "model.norm_eps=0.5",
                       "model.zero_centered_norms=true", "model.attention.rotary_dim=4"}));
  EXPECT_EQ(changes.allowed,
            "\n    model.attention.rope_theta: 10000 -> 80000"
            "\n    model.attention.window: 0 -> 16\n    train.context: 64 -> 512");
  EXPECT_EQ(
      changes.forbidden,
      "\n    model.norm_eps: 1e-05 -> 0.5\n    model.attention.num_heads: 4 -> 2"
      "\n    model.attention.rotary_dim: 0 -> 4\n    model.zero_centered_norms: false -> true");
}

TEST(ConfigChanges, AnOriginMayDescribeItsLayersInAnotherWay) {
  EXPECT_EQ(changes_from_origin(with(kSmallRun, {}), with(kMixer, {"model.intermediate_size=48"}))
                .forbidden,
            "");
}

}  // namespace
}  // namespace longship
