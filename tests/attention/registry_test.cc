#include "attention/registry.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"

namespace longship {
namespace {

using testing::expect_error;

SoftmaxMixerOptions options() {
  return {.hidden_size = 8, .num_heads = 2, .num_kv_heads = 1, .head_size = 4};
}

TEST(Registry, FindsEveryNameThatItLists) {
  for (const Strategy& strategy : strategies()) {
    EXPECT_EQ(&find_strategy(strategy.name), &strategy);
    EXPECT_FALSE(strategy.summary.empty() || strategy.layouts.empty());
  }
  for (const MixerBackend& backend : mixer_backends()) {
    EXPECT_EQ(&find_mixer_backend(backend.name), &backend);
    EXPECT_FALSE(backend.summary.empty() || backend.module.empty());
    EXPECT_FALSE(strategies_for({.family = backend.family}).empty());
  }
}

TEST(Registry, UnknownNamesListTheKnownOnes) {
  expect_error(ErrorCode::kConfig, {"`rign`", "ulysses, ring, token_ring"},
               [] { find_strategy("rign"); });
  expect_error(ErrorCode::kConfig, {"`flash`", "full"}, [] { find_mixer_backend("flash"); });
}

TEST(Registry, LocalRefusesMoreThanOneRankAndNamesWhatWouldDo) {
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
    EXPECT_EQ(find_strategy("local").refusal({.num_ranks = 1, .layout = layout}), "");
  const std::string refusal = find_strategy("local").refusal({.num_ranks = 4});
  EXPECT_NE(refusal.find("not 4"), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("choose ulysses or ring"), std::string::npos) << refusal;
}

TEST(Registry, AllButLocalServeEveryNumberOfRanksInBothLayouts) {
  for (std::string_view name : {"ulysses", "ring", "token_ring", "gather_kv", "usp"})
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (int num_ranks : {1, 2, 3, 64})
        EXPECT_EQ(find_strategy(name).refusal({.num_ranks = num_ranks, .layout = layout}), "");
}

TEST(Registry, EveryMaskOfALayerReachesTheStrategies) {
  MixerDescriptor layer{.strategy = "ring", .softmax = options()};
  layer.softmax.window = 7;
  layer.softmax.causal = false;
  layer.softmax.num_sink_tokens = 2;
  layer.softmax.sink_logits = layer.softmax.anchor = true;
  const StrategyUse use = strategy_use(layer, 4, Layout::kZigzag);
  EXPECT_EQ(use.window, 7);
  EXPECT_FALSE(use.causal);
  EXPECT_EQ(use.num_sink_tokens, 2);
  EXPECT_TRUE(use.sink_logit && use.anchor);
  for (std::string_view name : {"ulysses", "ring", "token_ring", "gather_kv", "usp"})
    EXPECT_EQ(find_strategy(name).refusal(use), "");
}

TEST(Registry, ALayoutThatAStrategyDoesNotServeIsRefusedWithOneThatItDoes) {
  Strategy contiguous_only = find_strategy("ring");
  contiguous_only.layouts = {Layout::kContiguous};
  const std::string refusal = contiguous_only.refusal({.num_ranks = 2, .layout = Layout::kZigzag});
  EXPECT_NE(refusal.find("`zigzag`, only `contiguous`: choose the layout `contiguous`"),
            std::string::npos)
      << refusal;
}

TEST(Registry, HaloRefusesALayerWithoutAWindowAndNamesWhatWouldDo) {
  const Strategy& halo = find_strategy("halo");
  const std::string refusal = halo.refusal({.num_ranks = 4});
  EXPECT_NE(refusal.find("sliding window"), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("ring"), std::string::npos) << refusal;
  EXPECT_EQ(halo.refusal({.num_ranks = 4, .window = 8}), "");
  EXPECT_EQ(halo.refusal({.num_ranks = 3,
                          .layout = Layout::kZigzag,
                          .window = 8,
                          .causal = false,
                          .num_sink_tokens = 2,
                          .sink_logit = true,
                          .anchor = true}),
            "");
}

TEST(Registry, LightseqServesCausalLayersOnTheContiguousLayout) {
  const Strategy& lightseq = find_strategy("lightseq");
  EXPECT_EQ(lightseq.refusal({.num_ranks = 5, .window = 8, .num_sink_tokens = 2, .anchor = true}),
            "");
  for (const StrategyUse& use : {StrategyUse{.num_ranks = 2, .layout = Layout::kZigzag},
                                 StrategyUse{.num_ranks = 2, .causal = false}})
    EXPECT_NE(lightseq.refusal(use), "");
  const std::string refusal = lightseq.refusal({.num_ranks = 2, .layout = Layout::kZigzag});
  EXPECT_NE(refusal.find("choose the layout `contiguous` or ulysses or ring"), std::string::npos)
      << refusal;
}

TEST(Registry, StrategiesThatNeedAWindowDoNotServeLatentLayers) {
  const std::string refusal =
      find_strategy("halo").refusal({.family = MixerFamily::kLatent, .num_ranks = 2});
  EXPECT_NE(refusal.find("does not serve latent layers: choose"), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("gather_latent"), std::string::npos) << refusal;
}

TEST(Registry, MixersOfOneLayerNeedModulesOfTheirOwn) {
  const MixerDescriptor full{.softmax = options()};
  EXPECT_EQ(module_conflict(full), "");
  EXPECT_NE(module_conflict(LayerDescriptor({full, full})).find("`self_attn`"), std::string::npos);
  MixerDescriptor mamba{.backend = "mamba2"};
  EXPECT_EQ(module_conflict(LayerDescriptor({mamba, full})), "");
  EXPECT_EQ(problems(LayerDescriptor(std::vector<MixerDescriptor>{}), 1, Layout::kZigzag).size(),
            1u);
}

TEST(Registry, FindsEveryProblemOfALayer) {
  EXPECT_TRUE(problems(MixerDescriptor{.softmax = options()}, 1, Layout::kZigzag).empty());
  MixerDescriptor layer{.backend = "full", .strategy = "local", .softmax = options()};
  layer.softmax.num_kv_heads = 3;
  const auto found = problems(layer, 2, Layout::kZigzag);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_NE(found[0].find("`local`"), std::string::npos) << found[0];
  EXPECT_NE(found[1].find("num_kv_heads 3"), std::string::npos) << found[1];
  EXPECT_EQ(problems(MixerDescriptor{.backend = "a", .strategy = "b"}, 1, Layout::kZigzag).size(),
            2u);
}

TEST(Registry, TheFactoryNamesEveryLayerThatItCannotBuild) {
  const MixerDescriptor good{.softmax = options()};
  MixerDescriptor bad_strategy = good, bad_backend = good;
  bad_strategy.strategy = "star";
  bad_backend.backend = "flash";
  expect_error(ErrorCode::kConfig,
               {"layer 1: unknown strategy `star`", "layer 3: unknown attention"}, [&] {
                 make_mixer_factory({good, bad_strategy, good, bad_backend}, Group::self(),
                                    Layout::kContiguous);
               });
}

TEST(Registry, TheFactoryNamesTheLayerThatGpusHaveNoKernelFor) {
  MixerDescriptor full{.softmax = options()};
  full.softmax.head_size = 64;
  MixerDescriptor odd = full;
  odd.softmax.head_size = 20;
  auto make_for_gpu = [](const MixerDescriptor& first, const MixerDescriptor& second) {
    make_mixer_factory({first, second}, Group::self(), Layout::kContiguous,
                       {.device = DeviceKind::kCuda});
  };
  EXPECT_NO_THROW(make_for_gpu(full, full));
  expect_error(ErrorCode::kConfig, {"layer 1", "multiples of 16", "20"},
               [&] { make_for_gpu(full, odd); });
  MixerDescriptor linear{.backend = "gated_delta",
                         .linear = LinearMixerOptions::for_backend("gated_delta")};
  linear.linear.hidden_size = 8;
  linear.linear.num_heads = linear.linear.key_size = linear.linear.value_size = 4;
  expect_error(ErrorCode::kConfig, {"layer 0 (gated_delta)", "CPU only"},
               [&] { make_for_gpu(linear, full); });
}

TEST(Registry, MixersOfAllStrategiesAgreeOnOneRankAndOutliveTheirFactory) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF64, 1);
  std::vector<std::unique_ptr<Mixer>> mixers;
  const auto served = strategies_for({.layout = Layout::kZigzag});
  {
    std::vector<LayerDescriptor> layers;
    for (const Strategy* strategy : served)
      layers.push_back(
          MixerDescriptor{.strategy = std::string(strategy->name), .softmax = options()});
    const MixerFactory factory = make_mixer_factory(layers, Group::self(), Layout::kZigzag);
    for (int64_t layer = 0; layer < static_cast<int64_t>(layers.size()); ++layer)
      mixers.push_back(factory(layer, fmt::format("layers.{}", layer), parameters));
    EXPECT_THROW(factory(static_cast<int64_t>(layers.size()), "next", parameters), Error);
  }
  EXPECT_EQ(parameters.all().size(), 4 * mixers.size());
  const SequencePlan plan = SequencePlan::make({0, 9, 20}, Layout::kZigzag, 1, 0);
  const Tensor x_TE = testing::random_tensor(ctx, {20, 8}, 1);
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < mixers.size(); ++i) {
    for (const char* name : {"q", "k", "v", "o"})
      parameters.find(fmt::format("layers.{}.self_attn.{}_proj.weight", i, name))
          ->master.copy_from(
              parameters.find(fmt::format("layers.0.self_attn.{}_proj.weight", name))->master);
    outputs.push_back(mixers[i]->forward(ctx, x_TE, plan).value());
    EXPECT_LE(testing::relative_rms(outputs[i], outputs[0]), 1e-14) << served[i]->name;
  }
}

}  // namespace
}  // namespace longship
