#include "launch/layer_summary.h"

#include <gtest/gtest.h>

#include "launch/config.h"
#include "launch/model.h"
#include "launch/validate.h"

namespace longship {
namespace {

config::Run zoo(bool tied) {
  config::Run run = parse_config(R"(
model {
  vocab_size: 20 hidden_size: 16 intermediate_size: 24 num_layers: 6
  layers: "2x gated_delta, mamba2 + local"
  mixer { name: "gated_delta" linear { num_heads: 2 key_size: 4 value_size: 6 } }
  mixer { name: "mamba2" linear { num_heads: 2 key_size: 4 value_size: 4 } }
  mixer { name: "local" backend: "full" attention { num_heads: 2 window: 5 num_sink_tokens: 1 } }
}
parallel { strategy: "local" linear_strategy: "local" })",
                                 "zoo", {});
  run.mutable_model()->set_tied_embeddings(tied);
  resolve_automatic_values(run, 1);
  return run;
}

TEST(LayerSummary, NamesRunsOfEqualLayers) {
  EXPECT_EQ(layer_ranges(zoo(true)),
            "0-1 gated_delta, 2 mamba2 + local, 3-4 gated_delta, 5 mamba2 + local");
}

TEST(LayerSummary, DescribesEveryKindOfMixer) {
  const auto lines = mixer_lines(zoo(true));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], "4 x gated_delta: 2 key and 2 value heads, states of 4 x 6; local");
  EXPECT_EQ(lines[1], "2 x mamba2: 1 key and 2 value heads, states of 4 x 4; local");
  EXPECT_EQ(lines[2],
            "2 x local (full): 2 query and 2 KV heads of 8, rope theta 10000, window 5, 1 sink "
            "tokens; local");
}

TEST(LayerSummary, CountsTheParametersThatTheModelHas) {
  Context ctx;
  for (bool tied : {true, false}) {
    const config::Run run = zoo(tied);
    const Model model = make_model(ctx, run, Group::self());
    const std::string all = parameter_lines(ctx, run).back();
    EXPECT_EQ(all.substr(0, 4), "all ");
    EXPECT_EQ(std::stoll(all.substr(4)), model.parameters.num_elements());
  }
}

}  // namespace
}  // namespace longship
