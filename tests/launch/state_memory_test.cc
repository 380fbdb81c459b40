#include "launch/state_memory.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

StateMemory of(config::Train::Precision precision, config::Parallel::Zero stage,
               bool bf16_moments = false) {
  config::Run run;
  run.mutable_train()->set_precision(precision);
  run.mutable_parallel()->set_zero(stage);
  run.mutable_optim()->set_bf16_moments(bf16_moments);
  return state_memory(run, 1000, 4);
}

void expect(const StateMemory& memory, int64_t weights, int64_t gradients, int64_t moments) {
  EXPECT_EQ(memory.weights, weights);
  EXPECT_EQ(memory.gradients, gradients);
  EXPECT_EQ(memory.moments, moments);
}

TEST(StateMemory, FallsFromStageToStage) {
  expect(of(config::Train::BF16, config::Parallel::NONE), 6000, 4000, 8000);
  expect(of(config::Train::BF16, config::Parallel::STAGE_1), 2000 + 1000, 4000, 2000);
  expect(of(config::Train::BF16, config::Parallel::STAGE_2), 2000 + 1000, 1000, 2000);
  expect(of(config::Train::BF16, config::Parallel::STAGE_3), 500 + 1000, 1000, 2000);
}

// Without copies, every rank reads the whole masters until the last stage.
TEST(StateMemory, HasNoCopiesInFp32) {
  expect(of(config::Train::FP32, config::Parallel::NONE), 4000, 4000, 8000);
  expect(of(config::Train::FP32, config::Parallel::STAGE_2), 4000, 1000, 2000);
  expect(of(config::Train::FP32, config::Parallel::STAGE_3), 1000, 1000, 2000);
}

TEST(StateMemory, CountsMomentsInBf16) {
  expect(of(config::Train::BF16, config::Parallel::NONE, true), 6000, 4000, 4000);
  expect(of(config::Train::BF16, config::Parallel::STAGE_1, true), 3000, 4000, 1000);
}

}  // namespace
}  // namespace longship
