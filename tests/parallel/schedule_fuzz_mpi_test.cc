// Random batches, masks and heads under every strategy of the table, against the definition of
// softmax attention and the recurrence of linear attention. A case follows from its seed alone.
// ranks: 1 2 3 4 5 6 7 8
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "attention/softmax_cpu.h"
#include "attention/strategy.h"
#include "runtime/seconds_since.h"
#include "tests/support/dice.h"
#include "tests/support/gradient_check.h"
#include "tests/support/linear_problem.h"
#include "tests/support/mpi_main.h"
#include "tests/support/op_check.h"
#include "tests/support/softmax_candidates.h"
#include "tests/support/softmax_case.h"

namespace longship {
namespace {

using testing::Dice;
using testing::LinearProblem;
using testing::SoftmaxCandidate;
using testing::world;

// Seeds from this one on: LONGSHIP_FUZZ_SEED checks others, or one that failed.
uint64_t first_seed() {
  const char* const wanted = std::getenv("LONGSHIP_FUZZ_SEED");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 0;
}

// Calls check(dice) for case after case, a fixed number of them or as many as the time allows, at
// least one.
template <class F>
void for_each_seed(F&& check) {
  constexpr uint64_t kNumCases = 100;
  constexpr double kSeconds = 4;
  const auto begin = std::chrono::steady_clock::now();
  for (uint64_t seed = first_seed(), last = seed + kNumCases - 1; seed <= last; ++seed) {
    SCOPED_TRACE(fmt::format("LONGSHIP_FUZZ_SEED={}", seed));
    Dice dice(seed);
    check(dice);
    // All ranks go on, or none.
    const double seconds = seconds_since(begin);
    if (world().all_reduce_value("test.time", seconds, ReduceOp::kMax) > kSeconds) break;
  }
}

// Up to eight documents and `max_tokens` tokens, in many cases fewer tokens than ranks or none at
// all, and documents of no token or one.
std::vector<int64_t> random_batch(Dice& dice, int64_t max_tokens) {
  std::vector<int64_t> cu_seqlens = {0};
  const int64_t longest = dice.one_of({1, 3, max_tokens / 4, max_tokens});
  for (int64_t remaining = dice.below(9); remaining > 0; --remaining) {
    const int64_t length = dice.one_in(4) ? dice.below(2) : dice.below(longest + 1);
    cu_seqlens.push_back(std::min(cu_seqlens.back() + length, max_tokens));
  }
  return cu_seqlens;
}

Layout random_layout(Dice& dice) {
  return dice.one_in(2) ? Layout::kContiguous : Layout::kZigzag;
}

StrategyUse random_use(Dice& dice) {
  return {.num_ranks = world().size(),
          .layout = random_layout(dice),
          .window = dice.one_of({0, 0, 1, 2, 1 + dice.below(60)}),
          .causal = !dice.one_in(4),
          .num_sink_tokens = dice.one_of({0, 0, 1, dice.below(9)}),
          .sink_logit = dice.one_in(3),
          .anchor = dice.one_in(3)};
}

TEST(ScheduleFuzz, SoftmaxStrategiesEqualTheDefinition) {
  const SoftmaxCpu kernel;
  const std::vector<SoftmaxCandidate> candidates = testing::softmax_candidates(world(), kernel);
  for_each_seed([&](Dice& dice) {
    Context ctx;
    const StrategyUse use = random_use(dice);
    const std::vector<int64_t> cu_seqlens = random_batch(dice, 40);
    const int64_t num_kv_heads = 1 + dice.below(4);
    const testing::AttentionHeads heads = {num_kv_heads * (1 + dice.below(3)), num_kv_heads};
    const DType dtype = dice.one_in(2) ? DType::kF32 : DType::kF64;
    const bool is_wide = dtype == DType::kF64;
    AttentionOptions options{.scale = 0.4,
                             .window = use.window,
                             .causal = use.causal,
                             .num_sink_tokens = use.num_sink_tokens,
                             .anchor = use.anchor};
    if (use.sink_logit) options.sink_logit_H = testing::random_tensor(ctx, {heads.query}, 9);
    const auto batch = testing::random_batch(ctx, cu_seqlens, heads, dtype, options);
    const SequencePlan plan = testing::plan_of(batch, use.layout, world());
    for (const SoftmaxCandidate& candidate : candidates) {
      if (!candidate.strategy->refusal(use).empty()) continue;
      SCOPED_TRACE(fmt::format("{}, {}, {}, {} heads over {}, {}, cu_seqlens {}", candidate.name,
                               layout_name(use.layout), testing::mask_text(options), heads.query,
                               heads.kv, dtype_name(dtype), fmt::join(cu_seqlens, ",")));
      const auto found = testing::run(ctx, batch, *candidate.schedule, plan, world());
      testing::expect_equal_to_definition(ctx, batch, found, is_wide ? 1e-13 : 2e-6,
                                          is_wide ? 1e-12 : 2e-5);
      EXPECT_TRUE(
          testing::same_bits(found, testing::run(ctx, batch, *candidate.schedule, plan, world())));
    }
  });
}

struct LinearCandidate {
  std::string name;
  std::unique_ptr<LinearSchedule> schedule;
  bool composes_maps;
};

std::vector<LinearCandidate> linear_candidates() {
  std::vector<LinearCandidate> all;
  for (const Strategy& strategy : strategies())
    if (strategy.serves(MixerFamily::kLinear) && (strategy.max_ranks == 0 || world().size() == 1))
      all.push_back({std::string(strategy.name), strategy.linear(world()),
                     strategy.name == "zeco" || strategy.name == "lasp2"});
  for (int64_t num_blocks : {1, 100})
    all.push_back({fmt::format("zeco in {} blocks", num_blocks),
                   make_linear_carry(make_zeco(world(), {.num_blocks = num_blocks})), true});
  return all;
}

TEST(ScheduleFuzz, LinearStrategiesEqualTheRecurrence) {
  const std::vector<LinearCandidate> candidates = linear_candidates();
  for_each_seed([&](Dice& dice) {
    Context ctx;
    LinearProblem problem{.cu_seqlens = random_batch(dice, 200),
                          .layout = random_layout(dice),
                          .gate = testing::kAllGates[dice.below(4)],
                          .has_delta_rule = dice.one_in(2),
                          .num_key_heads = 1 + dice.below(6)};
    problem.num_heads = problem.num_key_heads * (1 + dice.below(2));
    const DType dtype = dice.one_in(2) ? DType::kF32 : DType::kF64;
    const LinearInput whole = whole_input(ctx, problem);
    const Tensor do_THV = testing::random_tensor(
        ctx, {problem.cu_seqlens.back(), problem.num_heads, LinearProblem::kValueSize}, 8);
    const auto plan =
        SequencePlan::make(problem.cu_seqlens, problem.layout, world().size(), world().rank());
    const std::vector<Tensor> expected = expected_results(ctx, problem, whole, do_THV, plan);
    std::vector<Tensor> composed;  // by the first that composes maps: the others have its bits
    for (const LinearCandidate& candidate : candidates) {
      SCOPED_TRACE(fmt::format("{}, {}, {}", candidate.name, dtype_name(dtype), problem.label()));
      const auto found = run(problem, *candidate.schedule, dtype, whole, do_THV, plan);
      testing::expect_near(found, expected, dtype == DType::kF64 ? 1e-11 : 2e-5);
      if (!candidate.composes_maps) continue;
      if (composed.empty()) composed = found;
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_TRUE(!found[i].defined() || testing::bitwise_equal(found[i], composed[i])) << i;
    }
  });
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
