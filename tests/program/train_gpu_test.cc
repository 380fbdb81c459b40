// The verbs on a GPU, as a user meets them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/program/longship_program.h"

namespace longship::testing {
namespace {

constexpr const char* kModel =
    "hidden_size: 64 intermediate_size: 96 num_layers: 2 "
    "attention { num_heads: 2 num_kv_heads: 1 head_size: 64 }";

const std::vector<std::string> kOnGpu = {"train.device=CUDA", "train.precision=BF16",
                                         "train.deterministic=true", "train.steps=8"};

std::vector<std::string> on_gpu(std::vector<std::string> more) {
  more.insert(more.begin(), kOnGpu.begin(), kOnGpu.end());
  return more;
}

TEST(ProgramOnGpu, ResumesWithTheSameBitsAndAllocatesNothingLater) {
  TinyRun run(kModel);
  const ProgramResult whole = run.train(0, "whole", on_gpu({"telemetry.peak_tflops=100"}));
  ASSERT_EQ(whole.exit_code, 0) << whole.output;
  EXPECT_NE(whole.output.find("device    "), std::string::npos) << whole.output;
  EXPECT_NE(whole.output.find(" | mfu "), std::string::npos) << whole.output;

  const ProgramResult first = run.train(0, "halves", on_gpu({"checkpoint.every_steps=3"}));
  ASSERT_EQ(first.exit_code, 0) << first.output;
  EXPECT_EQ(run.metric("halves", "loss_hex"), run.metric("whole", "loss_hex"));
  // Back to step 6, and on again.
  std::filesystem::remove_all(run.folder("halves") + "/checkpoints/step_00000008");
  const ProgramResult second = run.train(0, "halves", on_gpu({}));
  ASSERT_EQ(second.exit_code, 0) << second.output;
  EXPECT_NE(second.output.find("resuming after step 6"), std::string::npos) << second.output;
  EXPECT_EQ(run.metric("halves", "loss_hex"), run.metric("whole", "loss_hex"));
  EXPECT_EQ(run.metric("halves", "grad_norm_hex"), run.metric("whole", "grad_norm_hex"));
  EXPECT_EQ(run.weights_fingerprint("halves"), run.weights_fingerprint("whole"));
}

TEST(ProgramOnGpu, EvaluatesAndGeneratesLikeTheCpu) {
  TinyRun run(kModel);
  ASSERT_EQ(run.train(0, "run", on_gpu({})).exit_code, 0);
  auto evaluated = [&](const std::string& device) {
    const std::string out = run.files().path(device + ".json");
    const ProgramResult result =
        run_longship(0, "eval " + run.folder("run") + " --tokens " + run.tokens() + " --json " +
                            out + " --set train.device=" + device);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    std::ifstream file(out);
    return nlohmann::json::parse(file)["loss"].get<double>();
  };
  const double on_cpu = evaluated("CPU");
  EXPECT_NEAR(evaluated("CUDA"), on_cpu, 2e-3 * on_cpu);
  const ProgramResult generated =
      run_longship(0, "generate " + run.folder("run") +
                          " --prompt 'The ship' --max-tokens 5 --set train.device=CUDA");
  EXPECT_EQ(generated.exit_code, 0) << generated.output;
  EXPECT_NE(generated.output.find("The ship"), std::string::npos) << generated.output;
}

TEST(ProgramOnGpu, StartsFromTheWeightsOfACpuRun) {
  TinyRun run(kModel);
  ASSERT_EQ(run.train(0, "cpu", {"train.precision=BF16"}).exit_code, 0);
  const ProgramResult longer = run.train(
      1, "gpu", on_gpu({"train.init_from=" + run.folder("cpu"), "optim.learning_rate=1e-6"}));
  ASSERT_EQ(longer.exit_code, 0) << longer.output;
  EXPECT_LT(run.losses("gpu").front(), 0.9 * run.losses("cpu").front());
}

TEST(ProgramOnGpu, RefusesWhatGpusCannotRunByName) {
  TinyRun run(
      "hidden_size: 32 intermediate_size: 48 num_layers: 2 layers: 'gated_delta, full' "
      "mixer { name: 'gated_delta' linear { num_heads: 2 key_size: 8 value_size: 8 } } "
      "mixer { name: 'full' attention { num_heads: 2 } }");
  const ProgramResult refused = run.train(0, "run", kOnGpu);
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  for (const char* text : {"model.mixer.gated_delta", "linear attention", "CPU only"})
    EXPECT_NE(refused.output.find(text), std::string::npos) << text << "\n" << refused.output;
  const ProgramResult automatic = run.train(
      0, "auto",
      {"train.device=AUTO", "train.precision=BF16", "train.steps=1", "optim.warmup_steps=0"});
  EXPECT_EQ(automatic.exit_code, 0) << automatic.output;
  EXPECT_NE(automatic.output.find("device    CPU: model.mixer.gated_delta"), std::string::npos)
      << automatic.output;
}

}  // namespace
}  // namespace longship::testing
