// Training with parallel.zero: every stage has the bits of none.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/mpi_main.h"
#include "tests/support/zero_training.h"

namespace longship {
namespace {

using testing::world;
using testing::zero_run;
using testing::zero_steps;
using testing::ZeroOutcome;
using testing::ZeroTraining;

const std::vector<std::string> kStages = {"NONE", "STAGE_1", "STAGE_2", "STAGE_3"};

ZeroOutcome train(const std::string& stage, const std::string& options, int num_micro_batches = 1) {
  Context ctx;
  ctx.memory->set_poison(true);
  return zero_steps(ctx, zero_run(stage, options, world().size()), world(), 3, num_micro_batches);
}

void expect_bits_of_none(const std::string& options) {
  SCOPED_TRACE(options);
  testing::expect_bits_of_none([&](const std::string& stage) { return train(stage, options); });
}

TEST(Zero, HasTheBitsOfNoneOverSequenceRanks) {
  expect_bits_of_none("train { recompute: BLOCK precision: BF16 }");
}

TEST(Zero, HasTheBitsOfNoneOverDataRanksWithMomentsInBf16) {
  expect_bits_of_none(
      fmt::format("model {{ tied_embeddings: false }} optim {{ bf16_moments: true }} "
                  "parallel {{ dp: {} }}",
                  world().size()));
}

TEST(Zero, HasTheBitsOfNoneOverBothAxesWithBiases) {
  if (world().size() % 2 != 0) return;
  expect_bits_of_none(
      "model { tied_embeddings: false attention { qkv_bias: true qk_norm: true } } "
      "parallel { dp: 2 } train { recompute: SELECTIVE precision: BF16 }");
}

TEST(Zero, AddsMicroBatchesAfterRanksFromStage2On) {
  const std::string options = "parallel { dp: 1 }";
  const ZeroOutcome none = train("NONE", options, 3), first = train("STAGE_1", options, 3),
                    second = train("STAGE_2", options, 3), third = train("STAGE_3", options, 3);
  EXPECT_TRUE(first == none);
  EXPECT_TRUE(second == third);
  for (size_t step = 0; step < none.norms.size(); ++step) {
    EXPECT_NEAR(third.norms[step], none.norms[step], 1e-5 * none.norms[step]);
    EXPECT_NEAR(third.losses[step], none.losses[step], 1e-5 * none.losses[step]);
  }
}

TEST(Zero, NamesABadParameterOnEveryRankWhoeverHoldsIt) {
  for (const std::string& stage : kStages) {
    SCOPED_TRACE(stage);
    Context ctx;
    ZeroTraining training(ctx, zero_run(stage, "", world().size()), world());
    for (Parameter& parameter : training.parameters().all()) {
      if (parameter.name != "model.layers.1.mlp.down_proj.weight") continue;
      // The last element, which only one rank of several holds from stage 1 on.
      const int64_t place = parameter.variable.value().numel() - 1 - parameter.first_element;
      if (place >= 0 && place < parameter.master.numel())
        parameter.master.data<float>()[place] = std::nanf("");
    }
    training.exchange().updated();
    try {
      training.step(1);
      ADD_FAILURE() << "a step with NaN weights went through";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNonFinite);
      EXPECT_NE(std::string(error.what()).find("model.layers.1.mlp.down_proj.weight"),
                std::string::npos)
          << error.what();
    }
  }
}

TEST(Zero, PeakMemoryIsASharePlusWhatUnitsNeedAtWork) {
  constexpr int64_t kActivations = int64_t{4} << 20;  // of a few tokens
  constexpr int64_t kStateBytes = 4 + 4 + 8;          // master, gradient, moments of an element
  Context ctx;
  ZeroTraining training(
      ctx,
      zero_run("STAGE_3", "model { hidden_size: 256 intermediate_size: 640 num_layers: 10 }",
               world().size()),
      world());
  for (uint64_t step = 0; step < 2; ++step) training.step(step);
  const int64_t peak = ctx.memory->peak_bytes();
  const int64_t elements = training.parameters().num_elements();
  int64_t block = 0;
  for (const Parameter& parameter : training.parameters().all())
    if (parameter.name.starts_with("model.layers.0.")) block += parameter.variable.value().numel();
  // A share, which may be a cut off in each unit; the copies of two blocks; the gradients of one,
  // and of two more packed, received from others and summed. Blocks of memory are up to an eighth
  // larger than what is asked for.
  const int64_t share = kStateBytes * (elements / world().size() + 6 * kPieceElements);
  const int64_t working = 4 * block * (2 + 1 + 2 * 3);
  EXPECT_LT(peak, (share + working) * 9 / 8 + kActivations);
  if (world().size() >= 4) {
    EXPECT_LT(peak, kStateBytes * elements / 2);
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
