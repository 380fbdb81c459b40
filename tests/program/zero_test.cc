// parallel.zero in the program: checkpoints move between stages and rank counts.
#include <gtest/gtest.h>

#include "tests/program/longship_program.h"

namespace longship::testing {
namespace {

// Matrices that are cut.
constexpr const char* kModel =
    "hidden_size: 128 intermediate_size: 320 num_layers: 2 "
    "attention { num_heads: 4 num_kv_heads: 2 }";

struct Leg {
  int ranks;
  const char* stage;
};

void train_leg(TinyRun& run, const std::string& name, const Leg& leg, int steps,
               std::vector<std::string> overrides = {}) {
  overrides.insert(overrides.end(), {std::string("parallel.zero=") + leg.stage,
                                     "train.steps=" + std::to_string(steps), "train.global_batch=1",
                                     "optim.schedule=CONSTANT"});
  const ProgramResult result = run.train(leg.ranks, name, overrides);
  ASSERT_EQ(result.exit_code, 0) << result.output;
}

TEST(ZeroRuns, ChangeTheStageWhenTheyResumeBitForBit) {
  TinyRun run(kModel);
  train_leg(run, "whole", {2, "NONE"}, 8);
  int steps = 0;
  for (const Leg& leg : {Leg{2, "STAGE_1"}, Leg{2, "STAGE_3"}, Leg{2, "NONE"}, Leg{2, "STAGE_2"}})
    train_leg(run, "legs", leg, steps += 2);
  EXPECT_EQ(run.metric("legs", "loss_hex"), run.metric("whole", "loss_hex"));
  EXPECT_EQ(run.metric("legs", "grad_norm_hex"), run.metric("whole", "grad_norm_hex"));
  EXPECT_EQ(run.weights_fingerprint("legs"), run.weights_fingerprint("whole"));
}

TEST(ZeroRuns, ResumeOnOtherRanksAsRunsWithoutIt) {
  TinyRun run(kModel);
  int steps = 0;
  for (const int ranks : {3, 1, 4}) {
    steps += 2;
    train_leg(run, "none", {ranks, "NONE"}, steps);
    train_leg(run, "sharded", {ranks, ranks == 1 ? "STAGE_1" : "STAGE_3"}, steps);
  }
  EXPECT_EQ(run.metric("sharded", "loss_hex"), run.metric("none", "loss_hex"));
  EXPECT_EQ(run.weights_fingerprint("sharded"), run.weights_fingerprint("none"));

  // And other verbs take what such a run wrote.
  train_leg(run, "from", {2, "STAGE_2"}, 2, {"train.init_from=" + run.folder("sharded")});
  train_leg(run, "from_none", {2, "NONE"}, 2, {"train.init_from=" + run.folder("none")});
  EXPECT_EQ(run.metric("from", "loss_hex"), run.metric("from_none", "loss_hex"));
  const ProgramResult eval =
      run_longship(2, "eval " + run.folder("sharded") + " --tokens " + run.tokens());
  EXPECT_EQ(eval.exit_code, 0) << eval.output;
  const ProgramResult generate =
      run_longship(2, "generate " + run.folder("sharded") + " --prompt 'The ship' --max-tokens 3");
  EXPECT_EQ(generate.exit_code, 0) << generate.output;
  const ProgramResult inspected =
      run_longship(0, "inspect " + run.config() +
                          " --ranks 4 --set parallel.zero=STAGE_3 --set "
                          "output_dir=none --set data.tokens=none");
  EXPECT_NE(inspected.output.find("ZeRO stage 3 over 4"), std::string::npos) << inspected.output;
  const ProgramResult refused = run_longship(2, "eval " + run.folder("sharded") + " --tokens " +
                                                    run.tokens() + " --set parallel.zero=STAGE_3");
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_NE(refused.output.find("parallel.zero is for training"), std::string::npos);
}

}  // namespace
}  // namespace longship::testing
