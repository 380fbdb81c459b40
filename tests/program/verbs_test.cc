// The verbs, as a user meets them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/program/longship_program.h"

namespace longship::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json read_json(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file);
}

TEST(Verbs, TrainedModelEvaluatesTheSameOnAnyNumberOfRanks) {
  TinyRun run;
  const ProgramResult trained = run.train(2, "run", {"telemetry.tensorboard=true"});
  ASSERT_EQ(trained.exit_code, 0) << trained.output;
  EXPECT_NE(trained.output.find("step"), std::string::npos);
  EXPECT_TRUE(fs::exists(run.folder("run") + "/config.resolved.textproto"));
  EXPECT_FALSE(fs::is_empty(run.folder("run") + "/tensorboard"));

  std::vector<double> losses;
  for (int ranks : {1, 3}) {
    const std::string out = run.files().path("eval" + std::to_string(ranks) + ".json");
    const ProgramResult result = run_longship(
        ranks, "eval " + run.folder("run") + " --tokens " + run.tokens() + " --json " + out);
    ASSERT_EQ(result.exit_code, 0) << result.output;
    const json report = read_json(out);
    losses.push_back(report["loss"]);
    EXPECT_NEAR(report["perplexity"], std::exp(report["loss"].get<double>()), 1e-9);
    int64_t tokens = 0;
    for (const auto& row : report["by_position"]) tokens += row["tokens"].get<int64_t>();
    EXPECT_EQ(tokens, report["tokens"]);
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-6 * losses[0]);
  EXPECT_LT(losses[0], std::log(258.0));  // better than not knowing
}

TEST(Verbs, LongerContextStartsFromTheWeightsOfAShorterOne) {
  TinyRun run;
  ASSERT_EQ(run.train(2, "short", {"train.context=32"}).exit_code, 0);
  const ProgramResult longer =
      run.train(2, "long",
                {"train.context=256", "train.steps=2", "optim.learning_rate=1e-6",
                 "model.attention.rope_theta=80000", "train.init_from=" + run.folder("short")});
  ASSERT_EQ(longer.exit_code, 0) << longer.output;
  EXPECT_NE(longer.output.find("model.attention.rope_theta: 10000 -> 80000"), std::string::npos)
      << longer.output;
  // The first loss is that of a trained model, not of a fresh one.
  EXPECT_LT(run.losses("long").front(), 0.9 * run.losses("short").front());
}

TEST(Verbs, WeightsThatWouldMeanSomethingElseAreNotStartedFrom) {
  TinyRun run;
  ASSERT_EQ(run.train(1, "short", {"train.steps=1", "optim.warmup_steps=0"}).exit_code, 0);
  const auto expect_refusal = [&](const std::string& change, const std::string& word) {
    const ProgramResult result =
        run.train(1, "other", {change, "train.init_from=" + run.folder("short")});
    EXPECT_EQ(result.exit_code, 2) << result.output;
    EXPECT_NE(result.output.find(word), std::string::npos) << word << "\n" << result.output;
  };
  expect_refusal("model.attention.rotary_dim=4", "model.attention.rotary_dim: ");
  expect_refusal("model.tied_embeddings=false", "model.tied_embeddings: true -> false");
}

TEST(Verbs, GenerateIsGreedyOrSampledAndRepeatable) {
  TinyRun run;
  ASSERT_EQ(run.train(1, "run", {"parallel.strategy=local"}).exit_code, 0);
  auto generate = [&](int ranks, const std::string& options) {
    const ProgramResult result = run_longship(
        ranks, "generate " + run.folder("run") + " --prompt 'The ship' --max-tokens 12 " + options);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    const size_t begin = result.output.find("The ship");  // behind what Open MPI has to say
    EXPECT_NE(begin, std::string::npos) << result.output;
    return result.output.substr(std::min(begin, result.output.size()));
  };
  const std::string greedy = generate(1, "");
  EXPECT_EQ(generate(1, ""), greedy);
  EXPECT_EQ(generate(2, ""), greedy);
  EXPECT_EQ(generate(1, "--temperature 5 --seed 1 --top-k 1"), greedy);
  EXPECT_EQ(generate(1, "--temperature 5 --seed 1"), generate(1, "--temperature 5 --seed 1"));
  EXPECT_NE(generate(1, "--temperature 5 --seed 1"), generate(1, "--temperature 5 --seed 2"));
}

TEST(Verbs, InspectShowsEachKindOfFile) {
  TinyRun run;
  ASSERT_EQ(run.train(2, "run", {"train.steps=2"}).exit_code, 0);
  const ProgramResult tokens = run_longship(0, "inspect --verify " + run.tokens());
  EXPECT_EQ(tokens.exit_code, 0) << tokens.output;
  EXPECT_NE(tokens.output.find("12 documents"), std::string::npos) << tokens.output;
  const ProgramResult folder = run_longship(0, "inspect --verify " + run.folder("run"));
  EXPECT_EQ(folder.exit_code, 0) << folder.output;
  EXPECT_NE(folder.output.find("step 2"), std::string::npos) << folder.output;
  const ProgramResult checkpoint =
      run_longship(0, "inspect --verify " + run.folder("run") + "/checkpoints/step_00000002");
  EXPECT_EQ(checkpoint.exit_code, 0) << checkpoint.output;
  EXPECT_NE(checkpoint.output.find("model.layers.1.mlp.up_proj.weight"), std::string::npos);
  const ProgramResult config =
      run_longship(0, "inspect " + run.folder("run") + "/config.resolved.textproto --ranks 2");
  EXPECT_EQ(config.exit_code, 0) << config.output;
  EXPECT_NE(config.output.find("head_size: 8"), std::string::npos) << config.output;
  const ProgramResult strategies = run_longship(0, "inspect --strategies");
  EXPECT_EQ(strategies.exit_code, 0);
  EXPECT_NE(strategies.output.find("ulysses"), std::string::npos) << strategies.output;
  const ProgramResult devices = run_longship(0, "inspect --devices");
  EXPECT_EQ(devices.exit_code, 0) << devices.output;
  EXPECT_NE(devices.output.find("CUDA: "), std::string::npos) << devices.output;
}

TEST(Verbs, Bf16TrainsAndStaysCloseToFp32) {
  TinyRun run;
  ASSERT_EQ(run.train(2, "fp32", {}).exit_code, 0);
  ASSERT_EQ(run.train(2, "bf16", {"train.precision=BF16", "train.recompute=BLOCK"}).exit_code, 0);
  const auto fp32 = run.losses("fp32"), bf16 = run.losses("bf16");
  ASSERT_EQ(bf16.size(), fp32.size());
  for (size_t i = 0; i < fp32.size(); ++i) EXPECT_NEAR(bf16[i], fp32[i], 0.02 * fp32[i]);
}

TEST(Verbs, HelpExplainsEveryVerb) {
  for (const char* verb : {"train", "prepare", "eval", "generate", "inspect"}) {
    const ProgramResult help = run_longship(0, std::string(verb) + " --help");
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_GT(help.output.size(), 200u) << help.output;
  }
}

}  // namespace
}  // namespace longship::testing
