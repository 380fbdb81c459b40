// Hybrid stacks, as a user meets them: trained, resumed, evaluated, inspected, and refused.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/program/longship_program.h"

namespace longship::testing {
namespace {

constexpr const char* kHybrid =
    "hidden_size: 32 intermediate_size: 48 num_layers: 2 layers: 'gated_delta, full' "
    "mixer { name: 'gated_delta' linear { num_heads: 2 key_size: 8 value_size: 16 } } "
    "mixer { name: 'full' attention { num_heads: 4 num_kv_heads: 2 } }";

// One layer of every family, two of them in parallel.
constexpr const char* kZoo =
    "hidden_size: 32 intermediate_size: 48 num_layers: 3 "
    "layers: 'mamba2 + local, kda, latent' "
    "mixer { name: 'mamba2' strategy: 'lasp' output_multiplier: 0.5 "
    "        linear { num_heads: 2 key_size: 8 value_size: 8 } } "
    "mixer { name: 'local' backend: 'full' strategy: 'ulysses' "
    "        attention { num_heads: 4 num_kv_heads: 2 window: 9 } } "
    "mixer { name: 'kda' strategy: 'lasp2' linear { num_heads: 2 key_size: 8 value_size: 8 } } "
    "mixer { name: 'latent' strategy: 'gather_latent' latent { num_heads: 2 kv_lora_rank: 12 "
    "        qk_nope_head_size: 8 qk_rope_head_size: 4 v_head_size: 8 rope_theta: 0 } }";

TEST(Hybrid, ResumesBitForBitOnTwoRanks) {
  for (const char* model : {kHybrid, kZoo}) {
    TinyRun run(model);
    ASSERT_EQ(run.train(2, "whole", {"train.steps=4", "optim.schedule=CONSTANT"}).exit_code, 0);
    const ProgramResult first = run.train(2, "legs", {"train.steps=2", "optim.schedule=CONSTANT"});
    ASSERT_EQ(first.exit_code, 0) << first.output;
    const ProgramResult second = run.train(2, "legs", {"train.steps=4", "optim.schedule=CONSTANT"});
    ASSERT_EQ(second.exit_code, 0) << second.output;
    EXPECT_NE(second.output.find("resuming after step 2"), std::string::npos) << second.output;
    const auto whole = run.metric("whole", "loss_hex");
    ASSERT_EQ(whole.size(), 4u);
    EXPECT_EQ(run.metric("legs", "loss_hex"), whole);
    EXPECT_EQ(run.weights_fingerprint("legs"), run.weights_fingerprint("whole"));
  }
}

TEST(Hybrid, GoesOnUnderOtherStrategies) {
  TinyRun run(kHybrid);
  ASSERT_EQ(run.train(2, "run", {"train.steps=2", "optim.schedule=CONSTANT"}).exit_code, 0);
  const ProgramResult result =
      run.train(2, "run",
                {"train.steps=3", "optim.schedule=CONSTANT", "model.mixer.full.strategy=ulysses",
                 "model.mixer.gated_delta.strategy=lasp2"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_NE(result.output.find("model.mixer.full.strategy: \"\" -> \"ulysses\""), std::string::npos)
      << result.output;
  const ProgramResult other =
      run.train(2, "run", {"train.steps=4", "model.mixer.gated_delta.linear.max_beta=2"});
  EXPECT_EQ(other.exit_code, 2) << other.output;
  EXPECT_NE(other.output.find("gated_delta.linear.max_beta: 1 -> 2"), std::string::npos)
      << other.output;
}

TEST(Hybrid, TrainsAlikeOnAnyNumberOfRanksAndLearns) {
  TinyRun run(kHybrid);
  for (int ranks : {1, 3}) {
    const ProgramResult result =
        run.train(ranks, "ranks" + std::to_string(ranks), {"train.steps=12"});
    ASSERT_EQ(result.exit_code, 0) << result.output;
    EXPECT_NE(result.output.find("1 x gated_delta: 2 key and 2 value heads, states of 8 x 16"),
              std::string::npos)
        << result.output;
  }
  const auto one = run.losses("ranks1"), three = run.losses("ranks3");
  ASSERT_EQ(one.size(), three.size());
  for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(one[i], three[i], 1e-5 * one[i]) << i;
  EXPECT_LT(one.back(), 0.9 * one.front());

  const ProgramResult half =
      run.train(2, "bf16", {"train.steps=12", "train.precision=BF16", "train.recompute=BLOCK"});
  ASSERT_EQ(half.exit_code, 0) << half.output;
  const auto bf16 = run.losses("bf16");
  for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(one[i], bf16[i], 0.02 * one[i]) << i;
}

TEST(Hybrid, EvaluatesAndGeneratesOnOtherRanksThanItTrainedOn) {
  TinyRun run(kHybrid);
  const ProgramResult trained = run.train(
      1, "run",
      {"train.steps=2", "parallel.strategy=local", "model.mixer.gated_delta.strategy=local"});
  ASSERT_EQ(trained.exit_code, 0) << trained.output;
  std::vector<double> losses;
  for (int ranks : {1, 2}) {
    const std::string out = run.files().path("eval" + std::to_string(ranks) + ".json");
    const ProgramResult result = run_longship(
        ranks, "eval " + run.folder("run") + " --tokens " + run.tokens() + " --json " + out);
    ASSERT_EQ(result.exit_code, 0) << result.output;
    std::ifstream file(out);
    losses.push_back(nlohmann::json::parse(file)["loss"]);
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-6 * losses[0]);
  const ProgramResult generated =
      run_longship(2, "generate " + run.folder("run") + " --prompt 'The ship' --max-tokens 3");
  EXPECT_EQ(generated.exit_code, 0) << generated.output;
}

TEST(Hybrid, AutoSaysWhatItChoseAndWhyAndKeepsItWhenResumed) {
  TinyRun run(kHybrid);
  const std::vector<std::string> automatic = {
      "parallel.strategy=auto", "parallel.linear_strategy=auto", "optim.schedule=CONSTANT"};
  auto train = [&](const char* name, const char* steps) {
    std::vector<std::string> overrides = automatic;
    overrides.push_back(std::string("train.steps=") + steps);
    return run.train(2, name, overrides);
  };
  const ProgramResult first = train("run", "2");
  ASSERT_EQ(first.exit_code, 0) << first.output;
  for (const char* text : {"auto      measured: ", "auto      gated_delta -> ",
                           "auto      full -> ", "ms a layer", "; then "})
    EXPECT_NE(first.output.find(text), std::string::npos) << text << "\n" << first.output;

  const ProgramResult second = train("run", "4");
  ASSERT_EQ(second.exit_code, 0) << second.output;
  EXPECT_EQ(second.output.find("measured"), std::string::npos) << second.output;
  EXPECT_NE(second.output.find("as the run was started with"), std::string::npos) << second.output;
  // What was chosen is written down: the same run by these names gives the same bits.
  const ProgramResult named =
      run_longship(2, "train " + run.folder("run") +
                          "/config.resolved.textproto --set output_dir=" + run.folder("named"));
  ASSERT_EQ(named.exit_code, 0) << named.output;
  EXPECT_EQ(named.output.find("auto  "), std::string::npos) << named.output;
  EXPECT_EQ(run.metric("run", "loss_hex"), run.metric("named", "loss_hex"));
  EXPECT_EQ(run.weights_fingerprint("run"), run.weights_fingerprint("named"));
}

TEST(Hybrid, InspectPrintsLayersAndParametersByKind) {
  TinyRun run(kZoo);
  const ProgramResult result = run_longship(
      0, "inspect " + run.config() + " --ranks 2 --set output_dir=x --set data.tokens=y");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  for (const char* text : {"# layers: 0 mamba2 + local, 1 kda, 2 latent",
                           "1 x local (full): 4 query and 2 KV heads of 8", "window 9; ulysses",
                           "conv_size: 4", "output_gate_rank: -1"})
    EXPECT_NE(result.output.find(text), std::string::npos) << text << "\n" << result.output;
}

TEST(Hybrid, RefusesWhatItCannotBuildNamingThePlace) {
  TinyRun run(kHybrid);
  const struct {
    const char* assignment;
    const char* word;
  } cases[] = {
      {"'model.layers=gated_delta, fall'", "names `fall`"},
      {"'model.layers=gated_delta, 2x'", "character 16"},
      {"'model.layers=2x gated_delta, full'", "set model.num_layers: 3"},
      {"model.mixer.full.strategy=zeco", "model.mixer.full.strategy"},
      {"model.mixer.gated_delta.linear.num_key_heads=3", "num_key_heads 3"},
      {"model.mixer.gated_delta.linear.gate=open", "gate `open`"},
      {"parallel.linear_strategy=ring", "does not serve linear layers: choose"},
  };
  for (const auto& c : cases) {
    const ProgramResult result =
        run_longship(0, "inspect " + run.config() +
                            " --set output_dir=x --set data.tokens=y --set " + c.assignment);
    EXPECT_EQ(result.exit_code, 2) << c.assignment;
    EXPECT_NE(result.output.find(c.word), std::string::npos) << c.assignment << "\n"
                                                             << result.output;
  }
  const ProgramResult trained = run.train(2, "bad", {cases[0].assignment});
  EXPECT_EQ(trained.exit_code, 2);
  EXPECT_NE(trained.output.find(cases[0].word), std::string::npos) << trained.output;
  EXPECT_FALSE(std::filesystem::exists(run.folder("bad")));
}

}  // namespace
}  // namespace longship::testing
