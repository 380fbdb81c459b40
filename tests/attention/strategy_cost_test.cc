#include "attention/strategy_cost.h"

#include <gtest/gtest.h>

#include "attention/strategy_table.h"

namespace longship {
namespace {

// A fast node: 2 us, 50 GB/s, 100 TFLOP/s.
constexpr MachineRates kNode = {
    .links = {.latency_s = 2e-6, .shift_bytes_per_s = 50e9, .exchange_bytes_per_s = 50e9},
    .flops_per_s = 100e12};

MixerDescriptor softmax(int64_t num_heads, int64_t num_kv_heads, int64_t window = 0) {
  MixerDescriptor mixer{.backend = "full"};
  mixer.softmax = {.hidden_size = num_heads * 128,
                   .num_heads = num_heads,
                   .num_kv_heads = num_kv_heads,
                   .head_size = 128,
                   .window = window};
  return mixer;
}

MixerDescriptor linear(const char* backend, int64_t num_heads) {
  MixerDescriptor mixer{.backend = backend};
  mixer.linear = LinearMixerOptions::for_backend(backend);
  mixer.linear.hidden_size = num_heads * 128;
  mixer.linear.num_heads = num_heads;
  mixer.linear.key_size = mixer.linear.value_size = 128;
  return mixer;
}

JobShape job(int num_ranks, int64_t num_tokens, Layout layout = Layout::kZigzag) {
  return {.num_ranks = num_ranks, .layout = layout, .num_tokens = num_tokens, .element_bytes = 2};
}

StrategyCost cost(const char* strategy, const MixerDescriptor& mixer, const JobShape& shape) {
  return estimate_cost(find_strategy(strategy), mixer, shape, kNode);
}

std::string_view best(const MixerDescriptor& mixer, const JobShape& shape,
                      const MachineRates& rates = kNode) {
  return rank_strategies(mixer, shape, rates).at(0).strategy->name;
}

TEST(StrategyCost, RingSendsWhatItsFormulaSays) {
  // s = 1000, P = 4, K (D + V) = 2 * 256, bf16 with fp32 sums.
  const double row = 2 * 256;
  EXPECT_DOUBLE_EQ(cost("ring", softmax(8, 2), job(4, 4000)).sent_bytes,
                   1000 * row * (3 * 2 + 3 * (2 + 4) + 4));
}

TEST(StrategyCost, UlyssesSendsWhatItsFormulaSays) {
  // Two query heads and one KV head a rank, nothing shared.
  const double q = 2 * 128, kv = 256, o = 2 * 128;
  EXPECT_DOUBLE_EQ(cost("ulysses", softmax(8, 4), job(4, 4000)).sent_bytes,
                   3 * 1000 * 2 * (q + kv + o + o + q + kv));
}

TEST(StrategyCost, StatesDoNotGrowWithTheText) {
  for (const char* strategy : {"zeco", "lasp", "lasp2"})
    EXPECT_EQ(cost(strategy, linear("gated_delta", 16), job(8, 1 << 14)).sent_bytes,
              cost(strategy, linear("gated_delta", 16), job(8, 1 << 20)).sent_bytes);
  EXPECT_EQ(
      cost("zeco", linear("gated_delta", 16), job(8, 1 << 14, Layout::kContiguous)).sent_bytes,
      2 * 16 * 128 * 128 * 4);
}

TEST(StrategyCost, OneRankSendsNothingAnywhere) {
  for (const MixerDescriptor& mixer : {softmax(8, 2), linear("kda", 4)})
    for (const CostedStrategy& costed : rank_strategies(mixer, job(1, 4096), kNode)) {
      EXPECT_EQ(costed.cost.sent_bytes, 0) << costed.strategy->name;
      EXPECT_GT(costed.cost.compute_s, 0) << costed.strategy->name;
      if (costed.strategy->name == "local") {
        EXPECT_EQ(costed.cost.exposed_s, 0);
      }
    }
}

TEST(StrategyCost, OneRankIsLocal) {
  EXPECT_EQ(best(softmax(8, 2), job(1, 4096)), "local");
  EXPECT_EQ(best(linear("kda", 4), job(1, 4096)), "local");
}

TEST(StrategyCost, FewKvHeadsOverManyRanksAreNotForUlysses) {
  // 16 query and 2 KV heads over 8 ranks: every KV head goes to four of them.
  const auto shape = job(8, 1 << 18);
  EXPECT_NE(best(softmax(16, 2), shape), "ulysses");
  EXPECT_GT(cost("ulysses", softmax(16, 2), shape).exposed_s,
            10 * cost("ring", softmax(16, 2), shape).exposed_s);
}

TEST(StrategyCost, ShortShardsOfManyHeadsAreForUlysses) {
  // Nothing to hide hops under, and latency counts: four steps against fifteen.
  MachineRates slow = kNode;
  slow.links.latency_s = 1e-3;
  EXPECT_EQ(best(softmax(32, 32), job(8, 1 << 12), slow), "ulysses");
}

TEST(StrategyCost, ShortWindowsAreForHalo) {
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
    EXPECT_EQ(best(softmax(16, 4, 512), job(8, 1 << 17, layout)), "halo");
}

TEST(StrategyCost, TheContiguousLayoutWantsBalance) {
  // The last rank of a ring has twice the mean to do; whole heads or helpers even that out.
  const auto shape = job(8, 1 << 20, Layout::kContiguous);
  EXPECT_NEAR(cost("ring", softmax(16, 2), shape).compute_s /
                  cost("lightseq", softmax(16, 2), shape).compute_s,
              2 - 1.0 / 8, 1e-9);
  EXPECT_EQ(best(softmax(16, 2), shape), "lightseq");
}

TEST(StrategyCost, MoreRanksThanHeadsLeaveUlyssesRanksIdle) {
  const auto shape = job(8, 1 << 16);
  EXPECT_NEAR(cost("ulysses", softmax(4, 4), shape).compute_s /
                  cost("ring", softmax(4, 4), shape).compute_s,
              2, 1e-9);
}

TEST(StrategyCost, DenseTransitionsOverManyRanksAreForZeco) {
  EXPECT_EQ(best(linear("gated_delta", 32), job(32, 1 << 18)), "zeco");
  EXPECT_EQ(best(linear("kda", 32), job(32, 1 << 18, Layout::kContiguous)), "zeco");
  // Of a dense map lasp2 ships K^2 more for each K V.
  const auto shape = job(32, 1 << 18);
  EXPECT_GT(cost("lasp2", linear("gated_delta", 32), shape).sent_bytes,
            1.9 * cost("lasp2", linear("simple_gla", 32), shape).sent_bytes);
}

TEST(StrategyCost, SlowLinksOfSmallScalarStatesAreForOneGather) {
  MachineRates slow = kNode;
  slow.links.latency_s = 1e-3;
  MixerDescriptor mixer = linear("simple_gla", 1);
  mixer.linear.key_size = mixer.linear.value_size = 16;
  EXPECT_EQ(best(mixer, job(16, 1 << 18), slow), "lasp2");
}

TEST(StrategyCost, LatentsTravelWhereHeadsAreMany) {
  MixerDescriptor mixer{.backend = "latent"};
  mixer.latent.hidden_size = 2048;
  mixer.latent.num_heads = 64;
  const auto shape = job(8, 1 << 18);
  EXPECT_LT(cost("gather_latent", mixer, shape).sent_bytes,
            0.05 * cost("ring", mixer, shape).sent_bytes);
}

TEST(StrategyCost, EveryStrategyThatServesALayerHasACost) {
  MixerDescriptor latent{.backend = "latent"};
  latent.latent.num_heads = 4;
  for (const MixerDescriptor& mixer :
       {softmax(16, 2), softmax(16, 2, 64), latent, linear("gla", 4), linear("delta_net", 4)})
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (int num_ranks : {1, 2, 3, 8, 64}) {
        const auto ranking = rank_strategies(mixer, job(num_ranks, 1 << 16, layout), kNode);
        EXPECT_EQ(ranking.size(), strategies_for(strategy_use(mixer, num_ranks, layout)).size());
        for (const CostedStrategy& costed : ranking) {
          EXPECT_GT(costed.cost.seconds(), 0) << costed.strategy->name;
          EXPECT_GE(costed.cost.exposed_s, 0) << costed.strategy->name;
          EXPECT_EQ(costed.cost.sent_bytes > 0, num_ranks > 1) << costed.strategy->name;
        }
      }
}

TEST(StrategyCost, TheReasonNamesTheChoiceAndTheOthers) {
  const auto ranking = rank_strategies(softmax(16, 2), job(8, 1 << 16), kNode);
  const std::string text = ranking_text(ranking);
  EXPECT_EQ(text.find(ranking[0].strategy->name), 0u) << text;
  for (const CostedStrategy& costed : ranking)
    EXPECT_NE(text.find(costed.strategy->name), std::string::npos) << text;
  EXPECT_NE(text.find("ms a layer"), std::string::npos) << text;
}

TEST(StrategyCost, TheAttentionRateIsMeasured) {
  Context ctx;
  const double rate = measure_attention_rate(ctx);
  EXPECT_GT(rate, 1e6);
  EXPECT_LT(rate, 1e15);
}

TEST(StrategyTable, ListsEveryBackendAndStrategyWithItsRefusals) {
  const std::string text = strategy_table();
  for (const MixerBackend& backend : mixer_backends())
    EXPECT_NE(text.find(fmt::format("\n{} ", backend.name)), std::string::npos) << backend.name;
  for (const Strategy& strategy : strategies()) {
    EXPECT_NE(text.find(fmt::format("\n{} ", strategy.name)), std::string::npos) << strategy.name;
    if (!strategy.serves(MixerFamily::kSoftmax)) continue;
    // The last line that begins with the name is that of the masks.
    const size_t begin = text.rfind(fmt::format("\n{} ", strategy.name));
    const std::string line = text.substr(begin + 1, text.find('\n', begin + 1) - begin - 1);
    int num_served = 0;
    for (size_t at = line.find(" yes"); at != std::string::npos; at = line.find(" yes", at + 1))
      ++num_served;
    const MaskSupport& masks = strategy.masks;
    EXPECT_EQ(num_served, masks.unlimited + masks.window + masks.bidirectional + masks.sink_tokens +
                              masks.sink_logit + masks.anchor)
        << line;
  }
}

}  // namespace
}  // namespace longship
