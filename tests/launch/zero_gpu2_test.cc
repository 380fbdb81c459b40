// Training on GPUs with parallel.zero: every stage has the bits of none.
// ranks: 2 4
#include <gtest/gtest.h>

#include "parallel/cuda/gpu_runtime.h"
#include "tests/support/mpi_main.h"
#include "tests/support/zero_training.h"

namespace longship {
namespace {

using testing::world;
using testing::zero_run;
using testing::zero_steps;
using testing::ZeroTraining;

Context deterministic_context(const GpuRuntime& runtime) {
  Context ctx = runtime.context();
  ctx.deterministic = true;
  return ctx;
}

void expect_bits_of_none(TransportWish transports, const std::string& options) {
  SCOPED_TRACE(options);
  const GpuRuntime runtime(testing::mpi(), {.transports = transports});
  Context ctx = deterministic_context(runtime);
  ctx.memory->set_poison(true);
  testing::expect_bits_of_none([&](const std::string& stage) {
    return zero_steps(ctx, zero_run(stage, options, world().size()), runtime.world(), 3);
  });
}

TEST(ZeroOnGpus, HasTheBitsOfNoneOverSequenceRanksByPeerCopies) {
  expect_bits_of_none(TransportWish::kPeerCopies, "train { precision: BF16 recompute: BLOCK }");
}

TEST(ZeroOnGpus, HasTheBitsOfNoneOverSequenceRanksByNccl) {
  expect_bits_of_none(TransportWish::kNccl,
                      "model { tied_embeddings: false } parallel { strategy: 'gather_kv' } "
                      "train { precision: BF16 recompute: SELECTIVE }");
}

TEST(ZeroOnGpus, HasTheBitsOfNoneOverDataRanksWithMomentsInBf16) {
  expect_bits_of_none(
      TransportWish::kMeasured,
      fmt::format("model {{ tied_embeddings: false }} optim {{ bf16_moments: true }} "
                  "parallel {{ dp: {} }} train {{ precision: BF16 }}",
                  world().size()));
}

TEST(ZeroOnGpus, AskTheSystemForNoMemoryAfterTheSecondStep) {
  const GpuRuntime runtime(testing::mpi(), {});
  for (const char* stage : {"STAGE_1", "STAGE_2", "STAGE_3"}) {
    Context ctx = deterministic_context(runtime);
    ZeroTraining training(
        ctx, zero_run(stage, "train { precision: BF16 recompute: BLOCK }", world().size()),
        runtime.world());
    for (uint64_t step = 0; step < 2; ++step) training.step(step, 2);
    const int64_t before = ctx.memory->num_system_allocations();
    for (uint64_t step = 2; step < 7; ++step) training.step(step, 2);
    EXPECT_EQ(ctx.memory->num_system_allocations(), before) << stage;
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
