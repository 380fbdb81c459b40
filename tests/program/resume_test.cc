// Resuming: bitwise on the same ranks, the same loss on others, and never from a damaged
// checkpoint.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "runtime/checkpoint/checkpoint.h"
#include "tests/program/longship_program.h"

namespace longship::testing {
namespace {

namespace fs = std::filesystem;

void flip_byte(const fs::path& path, int64_t offset_from_end) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  ASSERT_TRUE(file) << path;
  file.seekg(-offset_from_end, std::ios::end);
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(-offset_from_end, std::ios::end);
  file.put(byte);
}

fs::path newest_part(const TinyRun& run, const std::string& name, const std::string& step) {
  for (const auto& entry : fs::directory_iterator(run.folder(name) + "/checkpoints/" + step))
    if (entry.path().extension() == ".safetensors") return entry.path();
  ADD_FAILURE() << "no part in " << step;
  return {};
}

struct Leg {
  int ranks;
  const char* strategy;
  const char* sp;
};

TEST(Resume, TenStepsTwiceEqualTwentyBitForBit) {
  TinyRun run;
  for (const Leg& leg :
       {Leg{1, "local", "1"}, Leg{2, "ring", "2"}, Leg{3, "ulysses", "3"}, Leg{4, "ring", "2"},
        Leg{3, "token_ring", "3"}, Leg{2, "gather_kv", "2"}}) {
    const std::string name = std::string(leg.strategy) + std::to_string(leg.ranks);
    const std::vector<std::string> overrides = {
        std::string("parallel.strategy=") + leg.strategy, std::string("parallel.sp=") + leg.sp,
        "checkpoint.every_steps=10", "checkpoint.keep=0", "optim.schedule=CONSTANT"};
    auto with_steps = [&](const char* steps) {
      std::vector<std::string> all = overrides;
      all.push_back(std::string("train.steps=") + steps);
      return all;
    };
    ASSERT_EQ(run.train(leg.ranks, name + "_whole", with_steps("20")).exit_code, 0);
    ASSERT_EQ(run.train(leg.ranks, name + "_legs", with_steps("10")).exit_code, 0);
    const ProgramResult second = run.train(leg.ranks, name + "_legs", with_steps("20"));
    ASSERT_EQ(second.exit_code, 0) << second.output;
    EXPECT_NE(second.output.find("resuming after step 10"), std::string::npos) << second.output;

    const auto whole = run.metric(name + "_whole", "loss_hex");
    ASSERT_EQ(whole.size(), 20u);
    EXPECT_EQ(run.metric(name + "_legs", "loss_hex"), whole);
    EXPECT_EQ(run.metric(name + "_legs", "grad_norm_hex"),
              run.metric(name + "_whole", "grad_norm_hex"));
    EXPECT_EQ(run.weights_fingerprint(name + "_legs"), run.weights_fingerprint(name + "_whole"));
  }
}

TEST(Resume, MomentsInBf16AreSavedAsTheyAre) {
  TinyRun run;
  auto train = [&](const char* name, const char* steps, const char* bf16_moments) {
    return run.train(2, name,
                     {std::string("train.steps=") + steps, "optim.schedule=CONSTANT",
                      std::string("optim.bf16_moments=") + bf16_moments});
  };
  ASSERT_EQ(train("whole", "8", "true").exit_code, 0);
  ASSERT_EQ(train("legs", "4", "true").exit_code, 0);
  const ProgramResult other = train("legs", "8", "false");
  EXPECT_EQ(other.exit_code, 2) << other.output;
  EXPECT_NE(other.output.find("optim.bf16_moments: true -> false"), std::string::npos)
      << other.output;
  const ProgramResult second = train("legs", "8", "true");
  ASSERT_EQ(second.exit_code, 0) << second.output;
  EXPECT_EQ(run.metric("legs", "loss_hex"), run.metric("whole", "loss_hex"));
  EXPECT_EQ(run.weights_fingerprint("legs"), run.weights_fingerprint("whole"));

  const Checkpoint checkpoint =
      Checkpoint::open(run.folder("whole") + "/checkpoints/step_00000008");
  size_t num_moments = 0;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const bool is_moment = tensor.name.starts_with("optim.");
    EXPECT_EQ(tensor.dtype, is_moment ? DType::kBF16 : DType::kF32) << tensor.name;
    num_moments += is_moment;
  }
  EXPECT_EQ(3 * num_moments, 2 * checkpoint.tensors().size());
}

TEST(Resume, OtherRanksAndStrategiesContinueWithTheSameLoss) {
  TinyRun run;
  ASSERT_EQ(run.train(1, "reference",
                      {"parallel.strategy=local", "train.steps=16", "optim.schedule=CONSTANT"})
                .exit_code,
            0);
  const std::vector<double> reference = run.losses("reference");
  const std::vector<Leg> legs = {
      {1, "local", "1"}, {2, "ring", "2"}, {3, "ulysses", "3"}, {4, "ring", "2"}};
  int steps = 0;
  for (const Leg& leg : legs) {
    steps += 4;
    const ProgramResult result = run.train(
        leg.ranks, "moving",
        {std::string("parallel.strategy=") + leg.strategy, std::string("parallel.sp=") + leg.sp,
         "train.steps=" + std::to_string(steps), "optim.schedule=CONSTANT"});
    ASSERT_EQ(result.exit_code, 0) << result.output;
  }
  const std::vector<double> moving = run.losses("moving");
  ASSERT_EQ(moving.size(), 16u);
  for (size_t i = 0; i < 16; ++i)
    EXPECT_LE(std::abs(moving[i] - reference[i]), 1e-6 * reference[i]) << "step " << i + 1;
  EXPECT_LT(reference.back(), 0.9 * reference.front());  // and it learned something
}

TEST(Resume, DamagedCheckpointIsNamedAndTheOneBeforeIsUsed) {
  TinyRun run;
  ASSERT_EQ(run.train(2, "run",
                      {"train.steps=12", "checkpoint.every_steps=4", "checkpoint.keep=0",
                       "optim.schedule=CONSTANT"})
                .exit_code,
            0);
  const auto whole = run.metric("run", "loss_hex");
  flip_byte(newest_part(run, "run", "step_00000012"), 5);
  const ProgramResult result =
      run.train(2, "run", {"train.steps=14", "checkpoint.keep=0", "optim.schedule=CONSTANT"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_NE(result.output.find("step_00000012"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("resuming after step 8"), std::string::npos) << result.output;
  auto again = run.metric("run", "loss_hex");
  ASSERT_EQ(again.size(), 14u);
  again.resize(12);
  EXPECT_EQ(again, whole);
}

TEST(Resume, OnlyDamagedCheckpointsStopTheRunInsteadOfStartingOver) {
  TinyRun run;
  ASSERT_EQ(run.train(1, "run",
                      {"parallel.strategy=local", "train.steps=4", "checkpoint.every_steps=2",
                       "checkpoint.keep=0"})
                .exit_code,
            0);
  flip_byte(newest_part(run, "run", "step_00000002"), 5);
  fs::resize_file(run.folder("run") + "/checkpoints/step_00000004/MANIFEST.pb", 20);
  const ProgramResult result = run.train(1, "run", {"parallel.strategy=local", "train.steps=6"});
  EXPECT_EQ(result.exit_code, 3) << result.output;
  EXPECT_NE(result.output.find("step_00000002"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("step_00000004"), std::string::npos) << result.output;
}

TEST(Resume, SigtermSavesExits75AndTheRunGoesOnBitForBit) {
  TinyRun run;
  // The signal goes to one rank only, as some schedulers do.
  const std::string command =
      "train " + run.config() + " --set output_dir=" + run.folder("stopped") +
      " --set data.tokens=" + run.tokens() +
      " --set train.steps=400 --set optim.schedule=CONSTANT & "
      "pid=$!; for i in $(seq 600); do sleep 0.1; "
      "[ -f " +
      run.folder("stopped") +
      "/metrics.jsonl ] && "
      "[ $(wc -l < " +
      run.folder("stopped") +
      "/metrics.jsonl) -ge 3 ] && break; done; "
      "pkill -TERM -n -f '^" LONGSHIP_PROGRAM " train .*/stopped'; wait $pid";
  const ProgramResult stopped = run_longship(2, command);
  ASSERT_EQ(stopped.exit_code, 75) << stopped.output;
  const size_t done = run.metric("stopped", "loss_hex").size();
  ASSERT_GE(done, 3u);
  ASSERT_LT(done, 400u);
  const std::string steps = "train.steps=" + std::to_string(done + 3);
  ASSERT_EQ(run.train(2, "stopped", {steps, "optim.schedule=CONSTANT"}).exit_code, 0);
  ASSERT_EQ(run.train(2, "whole", {steps, "optim.schedule=CONSTANT"}).exit_code, 0);
  EXPECT_EQ(run.metric("stopped", "loss_hex"), run.metric("whole", "loss_hex"));
  EXPECT_EQ(run.weights_fingerprint("stopped"), run.weights_fingerprint("whole"));
}

TEST(Resume, AnotherModelOrDataIsRefusedFieldByField) {
  TinyRun run;
  ASSERT_EQ(run.train(1, "run", {"parallel.strategy=local", "train.steps=2"}).exit_code, 0);
  const std::string before = run.weights_fingerprint("run");
  const ProgramResult result = run.train(1, "run",
                                         {"parallel.strategy=local", "train.steps=4",
                                          "train.seed=12", "model.attention.rope_theta=20000"});
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_NE(result.output.find("train.seed: 11 -> 12"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("model.attention.rope_theta: 10000 -> 20000"), std::string::npos)
      << result.output;
  EXPECT_EQ(run.weights_fingerprint("run"), before);
}

}  // namespace
}  // namespace longship::testing
