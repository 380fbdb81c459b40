// Every softmax schedule with blocks as rounds of attention calls, executed by plain loops: what a
// GPU is given, against the definition of attention.
// ranks: 1 2 3 4
#include <gtest/gtest.h>

#include "attention/softmax_calls.h"
#include "attention/strategy.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/plain_calls.h"
#include "tests/support/softmax_case.h"

namespace longship {
namespace {

using testing::cu_seqlens_of;
using testing::world;

// Each option alone, and joined with others.
std::vector<AttentionOptions> masks(Context& ctx, int64_t num_heads) {
  const Variable sink_logit_H = testing::random_tensor(ctx, {num_heads}, 9);
  return {{.scale = 0.4},
          {.scale = 0.4, .causal = false},
          {.scale = 0.4, .window = 4},
          {.scale = 0.4, .window = 5, .causal = false},
          {.scale = 0.4, .anchor = true, .sink_logit_H = sink_logit_H},
          {.scale = 0.4, .window = 6, .num_sink_tokens = 2, .anchor = true}};
}

void expect_equal_to_definition(DType dtype, double forward_bound, double gradient_bound) {
  const SoftmaxCalls kernel(std::make_unique<testing::PlainCalls>(),
                            {.longest_causal = 9, .tile_rows = 5});
  Context ctx;
  ctx.memory->set_poison(true);
  for (const Strategy& strategy : strategies()) {
    if (strategy.softmax == nullptr) continue;
    for (const Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (const AttentionOptions& options : masks(ctx, 6)) {
        const StrategyUse use{.num_ranks = world().size(),
                              .layout = layout,
                              .window = options.window,
                              .causal = options.causal};
        if (!strategy.refusal(use).empty()) continue;
        SCOPED_TRACE(fmt::format("{} {}, causal {}, window {}, anchor {}", strategy.name,
                                 layout_name(layout), options.causal, options.window,
                                 options.anchor));
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
