// What the table of strategies claims, checked against what their schedules do: a mask and layout
// that a strategy serves gives the results of the definition, and one that it refuses throws.
// ranks: 1 3 4
#include <gtest/gtest.h>

#include "attention/registry.h"
#include "attention/softmax_cpu.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/softmax_case.h"
#include "tests/support/whole_batch.h"

namespace longship {
namespace {

using testing::world;

struct Mask {
  const char* name;
  StrategyUse use;
};

std::vector<Mask> masks() {
  return {{"causal", {}},
          {"window", {.window = 4}},
          {"bidirectional", {.causal = false}},
          {"bidirectional window", {.window = 4, .causal = false}},
          {"sink tokens", {.window = 4, .num_sink_tokens = 2}},
          {"sink logit", {.sink_logit = true}},
          {"sink logit in a window", {.window = 4, .sink_logit = true}},
          {"anchor", {.anchor = true}},
          {"anchor in a window", {.window = 4, .anchor = true}}};
}

AttentionOptions options_of(Context& ctx, const StrategyUse& use) {
  AttentionOptions options{.scale = 0.4,
                           .window = use.window,
                           .causal = use.causal,
                           .num_sink_tokens = use.num_sink_tokens,
                           .anchor = use.anchor};
  if (use.sink_logit) options.sink_logit_H = Variable::leaf(testing::random_tensor(ctx, {4}, 17));
  return options;
}

TEST(StrategyTable, EveryClaimIsWhatTheScheduleDoes) {
  Context ctx;
  const SoftmaxCpu kernel;
  int num_served = 0, num_refused = 0;
  for (const Strategy& strategy : strategies()) {
    if (!strategy.serves(MixerFamily::kSoftmax)) continue;
    if (strategy.max_ranks > 0 && world().size() > strategy.max_ranks) continue;
    const auto schedule = strategy.softmax(world(), kernel);
    for (const Mask& mask : masks())
      for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
        SCOPED_TRACE(fmt::format("{}, {}, {}", strategy.name, mask.name, layout_name(layout)));
        StrategyUse use = mask.use;
        use.num_ranks = world().size();
        use.layout = layout;
        const auto batch = testing::random_batch(ctx, {0, 2, 15, 16, 29}, {.query = 4, .kv = 2},
                                                 DType::kF64, options_of(ctx, use));
        const SequencePlan plan = testing::plan_of(batch, layout, world());
        if (strategy.refusal(use).empty()) {
          const auto found = testing::run(ctx, batch, *schedule, plan, world());
          testing::expect_equal_to_definition(ctx, batch, found, 1e-12, 1e-11);
          ++num_served;
        } else {
          testing::expect_error(ErrorCode::kConfig, {std::string(strategy.name)},
                                [&] { testing::run(ctx, batch, *schedule, plan, world()); });
          ++num_refused;
        }
      }
  }
  EXPECT_GT(num_served, 80);
  EXPECT_GT(num_refused, 10);
}

// A small mixer; softmax attention in a window, which every strategy serves.
MixerDescriptor small_mixer(const MixerBackend& backend) {
  MixerDescriptor mixer{.backend = std::string(backend.name)};
  if (backend.family == MixerFamily::kLinear) {
    mixer.linear = LinearMixerOptions::for_backend(backend.name);
    mixer.linear.hidden_size = 8;
    mixer.linear.num_heads = 3;
    mixer.linear.key_size = 4;
    mixer.linear.value_size = 6;
  }
  mixer.softmax = {
      .hidden_size = 8, .num_heads = 4, .num_kv_heads = 2, .head_size = 4, .window = 5};
  mixer.latent.hidden_size = 8;
  mixer.latent.num_heads = 3;
  mixer.latent.kv_lora_rank = 6;
  mixer.latent.qk_nope_head_size = 4;
  mixer.latent.qk_rope_head_size = 2;
  mixer.latent.v_head_size = 4;
  return mixer;
}

// The whole batch's outputs; weights are the same for every strategy.
Tensor outputs(Context& ctx, const MixerDescriptor& mixer, const Group& sp, Layout layout,
               const Tensor& x_TE) {
  ParameterList parameters(ctx, DType::kF64, 3);
  const auto made = make_mixer_factory({mixer}, sp, layout)(0, "layer", parameters);
  const SequencePlan plan = SequencePlan::make({0, 2, 15, 16, 29}, layout, sp.size(), sp.rank());
  return testing::gather(ctx, sp, plan, made->forward(ctx, plan.shard(ctx, x_TE), plan).value());
}

TEST(StrategyTable, EveryBackendGivesItsResultsUnderEveryStrategyThatServesIt) {
  Context ctx;
  const Tensor x_TE = testing::random_tensor(ctx, {29, 8}, 5);
  for (const MixerBackend& backend : mixer_backends()) {
    MixerDescriptor mixer = small_mixer(backend);
    mixer.strategy = "local";
    const Tensor expected = outputs(ctx, mixer, Group::self(), Layout::kContiguous, x_TE);
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
      const auto served = strategies_for(strategy_use(mixer, world().size(), layout));
      EXPECT_GE(served.size(), 4u) << backend.name;
      for (const Strategy* strategy : served) {
        mixer.strategy = strategy->name;
        EXPECT_LE(testing::relative_rms(outputs(ctx, mixer, world(), layout, x_TE), expected),
                  1e-12)
            << backend.name << " under " << strategy->name << ", " << layout_name(layout);
      }
    }
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
