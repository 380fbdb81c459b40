// Every softmax schedule with blocks as rounds of attention calls, executed by plain loops: what a
// GPU is given, against the definition of attention.
// ranks: 1 2 3 4
#include <gtest/gtest.h>

#include "attention/softmax_calls.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/plain_calls.h"
#include "tests/support/softmax_candidates.h"
#include "tests/support/softmax_case.h"

namespace longship {
namespace {

using testing::cu_seqlens_of;
using testing::world;

void expect_equal_to_definition(DType dtype, double forward_bound, double gradient_bound) {
  const SoftmaxCalls kernel(std::make_unique<testing::PlainCalls>(),
                            CallPlanOptions{.longest_causal = 9, .tile_rows = 5});
  Context ctx;
  ctx.memory->set_poison(true);
  for (const Strategy& strategy : strategies()) {
    if (strategy.softmax == nullptr) continue;
    for (const Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (const AttentionOptions& options :
           testing::all_masks(0.4, testing::random_tensor(ctx, {6}, 9))) {
        if (!strategy.refusal(testing::use_of(options, world().size(), layout)).empty()) continue;
        SCOPED_TRACE(fmt::format("{} {}, {}", strategy.name, layout_name(layout),
                                 testing::mask_text(options)));
        const auto batch = testing::random_batch(ctx, cu_seqlens_of({3, 0, 28, 1, 1, 9, 2}), {6, 3},
                                                 dtype, options);
        const auto schedule = strategy.softmax(world(), kernel);
        const auto found =
            testing::run(ctx, batch, *schedule, testing::plan_of(batch, layout, world()), world());
        testing::expect_equal_to_definition(ctx, batch, found, forward_bound, gradient_bound);
      }
  }
}

TEST(SoftmaxCalls, EqualTheWholeBatchUnderEverySchedule) {
  expect_equal_to_definition(DType::kF64, 1e-13, 1e-12);
}

TEST(SoftmaxCalls, EqualTheWholeBatchInBf16WithinItsRounding) {
  expect_equal_to_definition(DType::kBF16, 5e-3, 1e-2);
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
