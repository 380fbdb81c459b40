// `longship train` on GPUs that share sequences, batches or both: a deterministic run repeats its
// bits, also when it stops halfway and resumes.
#include <gtest/gtest.h>

#include "runtime/cuda/device_info.h"
#include "tests/program/longship_program.h"

namespace longship::testing {
namespace {

struct Leg {
  int ranks;
  const char* strategy;
  const char* sp;
};

class ProgramOnGpus : public ::testing::TestWithParam<Leg> {
 protected:
  void SetUp() override {
    const size_t found = visible_gpus().names.size();
    if (found < static_cast<size_t>(GetParam().ranks))
      GTEST_SKIP() << "skipped: needs " << GetParam().ranks << " GPUs, found " << found;
  }
};

TEST_P(ProgramOnGpus, ThreeStepsTwiceEqualSixBitForBit) {
  const Leg& leg = GetParam();
  TinyRun run(
      "hidden_size: 64 intermediate_size: 96 num_layers: 2 "
      "attention { num_heads: 2 num_kv_heads: 1 head_size: 64 }");
  auto train = [&](const std::string& name, const std::string& steps) {
    const ProgramResult result = run.train(
        leg.ranks, name,
        {"train.device=CUDA", "train.precision=BF16", "train.deterministic=true",
         "train.steps=" + steps, "optim.schedule=CONSTANT", "checkpoint.every_steps=3",
         std::string("parallel.strategy=") + leg.strategy, std::string("parallel.sp=") + leg.sp});
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return result;
  };
  train("whole", "6");
  train("legs", "3");
  const ProgramResult resumed = train("legs", "6");
  EXPECT_NE(resumed.output.find("resuming after step 3"), std::string::npos) << resumed.output;

  ASSERT_EQ(run.metric("whole", "loss_hex").size(), 6u);
  EXPECT_EQ(run.metric("legs", "loss_hex"), run.metric("whole", "loss_hex"));
  EXPECT_EQ(run.metric("legs", "grad_norm_hex"), run.metric("whole", "grad_norm_hex"));
  EXPECT_EQ(run.weights_fingerprint("legs"), run.weights_fingerprint("whole"));
}

INSTANTIATE_TEST_SUITE_P(TwoGpus, ProgramOnGpus,
                         ::testing::Values(Leg{2, "ring", "2"}, Leg{2, "ulysses", "2"},
                                           Leg{2, "local", "1"}));
INSTANTIATE_TEST_SUITE_P(FourGpus, ProgramOnGpus,
                         ::testing::Values(Leg{4, "usp", "4"}, Leg{4, "gather_kv", "2"}));

}  // namespace
}  // namespace longship::testing
