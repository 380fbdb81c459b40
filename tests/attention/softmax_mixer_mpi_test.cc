// Mixers that share a sequence against the mixer of one rank that holds all of it.
// ranks: 1 2 3 4
#include <gtest/gtest.h>

#include "attention/registry.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mixer_model.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::relative_rms;
using testing::world;

const std::vector<int64_t> kDocuments = {0, 1, 150, 150, 157, 241};

SoftmaxMixerOptions qwen() {
  return {.hidden_size = 24,
          .num_heads = 6,
          .num_kv_heads = 2,
          .head_size = 16,
          .qkv_bias = true,
          .qk_norm = true,
          .init_std = 0.2};
}

std::vector<SoftmaxMixerOptions> variants() {
  std::vector<SoftmaxMixerOptions> all = {qwen(), qwen(), qwen(), qwen()};
  all[1].output_gate = all[1].sink_logits = all[1].anchor = true;
  all[1].window = 20;
  all[1].num_sink_tokens = 3;
  all[2].causal = false;
  all[3].window = 70;  // more than a shard of four ranks
  return all;
}

testing::MixerResults run(const Group& sp, const SoftmaxMixerOptions& options,
                          const std::string& strategy, Layout layout) {
  const MixerFactory factory =
      make_mixer_factory({MixerDescriptor{.strategy = strategy, .softmax = options}}, sp, layout);
  testing::MixerModel model(
      [&](ParameterList& parameters) { return factory(0, "layer", parameters); },
      options.hidden_size, DType::kF32,
      SequencePlan::make(kDocuments, layout, sp.size(), sp.rank()));
  return testing::whole_results(model, sp);
}

TEST(SoftmaxMixer, EqualsOneRankInEveryStrategyAndLayout) {
  for (const SoftmaxMixerOptions& options : variants()) {
    const auto expected = run(Group::self(), options, "local", Layout::kContiguous);
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
      const StrategyUse use =
          strategy_use(MixerDescriptor{.softmax = options}, world().size(), layout);
      for (const Strategy* strategy : strategies_for(use)) {
        SCOPED_TRACE(fmt::format("{} {}, gate {}, causal {}, window {}", strategy->name,
                                 layout_name(layout), options.output_gate, options.causal,
                                 options.window));
        const auto found = run(world(), options, std::string(strategy->name), layout);
        for (size_t i = 0; i < expected.size(); ++i) {
          const auto& [name, wanted] = expected[i];
          const double bound = name == "y" || name == "x" ? 2e-6 : 1e-5;
          EXPECT_LE(relative_rms(found[i].second, wanted), bound) << name;
        }
      }
    }
  }
}

TEST(SoftmaxMixer, LocalIsRefusedOnMoreThanOneRank) {
  auto build = [] {
    make_mixer_factory({MixerDescriptor{.strategy = "local", .softmax = qwen()}}, world(),
                       Layout::kContiguous);
  };
  if (world().size() == 1) {
    build();
  } else {
    testing::expect_error(ErrorCode::kConfig, {"layer 0", "`local`", "choose ulysses or ring"},
                          build);
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
