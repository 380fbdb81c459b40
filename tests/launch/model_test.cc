#include "launch/model.h"

#include <gtest/gtest.h>

#include "launch/config.h"
#include "launch/validate.h"

namespace longship {
namespace {

Model build(Context& ctx, const std::string& extra) {
  config::Run run = parse_config(
      "model { vocab_size: 20 hidden_size: 16 intermediate_size: 24 num_layers: 3 "
      "attention { num_heads: 2 qkv_bias: true qk_norm: true } } " +
          extra,
      "model", {});
  resolve_automatic_values(run, 1);
  return make_model(ctx, run, Group::self());
}

TEST(Model, DecaysMatricesOnlyUnlessAskedForAll) {
  Context ctx;
  const Model usual = build(ctx, "parallel { strategy: 'local' }");
  const Model all = build(ctx, "parallel { strategy: 'local' } optim { decay_all: true }");
  int num_decayed = 0;
  for (const Parameter& parameter : usual.parameters.all()) {
    const bool is_matrix = parameter.master.rank() == 2;
    const bool is_embedding = parameter.name == "model.embed_tokens.weight";
    EXPECT_EQ(parameter.decay, is_matrix && !is_embedding) << parameter.name;
    num_decayed += parameter.decay;
  }
  EXPECT_EQ(num_decayed, 3 * 7);
  for (const Parameter& parameter : all.parameters.all())
    EXPECT_TRUE(parameter.decay) << parameter.name;
}

TEST(Model, NormsStandAndStartAsTheConfigurationSays) {
  Context ctx;
  config::Run run = parse_config(R"(
model {
  vocab_size: 20 hidden_size: 16 intermediate_size: 24 num_layers: 4 zero_centered_norms: true
  layers: "3x gated_delta, full"
  mixer { name: "gated_delta" strategy: "local" linear { num_heads: 2 key_size: 4 value_size: 4 } }
  mixer {
    name: "full" strategy: "local" norm_after: true
    attention { num_heads: 2 qk_norm: true qk_norm_across_heads: true }
  }
})",
                                 "model", {});
  resolve_automatic_values(run, 1);
  const Model model = make_model(ctx, run, Group::self());
  auto first_value = [&](const std::string& name) {
    const Parameter* found = model.parameters.find(name + ".weight");
    return found == nullptr ? -1.0f : found->master.data<float>()[0];
  };
  for (const char* name :
       {"model.norm", "model.layers.2.input_layernorm", "model.layers.2.post_attention_layernorm",
        "model.layers.3.post_attention_layernorm", "model.layers.3.post_feedforward_layernorm",
        "model.layers.3.self_attn.q_norm"})
    EXPECT_EQ(first_value(name), 0) << name;
  EXPECT_EQ(first_value("model.layers.3.input_layernorm"), -1);
  EXPECT_EQ(first_value("model.layers.2.linear_attn.o_norm"), 1);
}

TEST(Model, WeightsDependOnTheSeedAlone) {
  Context ctx;
  const std::string local = "parallel { strategy: 'local' } ";
  const Model a = build(ctx, local + "train { seed: 1 }"),
              b = build(ctx, local + "train { seed: 1 }"),
              c = build(ctx, local + "train { seed: 2 }");
  const float* first = a.parameters.all().front().master.data<float>();
  EXPECT_EQ(first[5], b.parameters.all().front().master.data<float>()[5]);
  EXPECT_NE(first[5], c.parameters.all().front().master.data<float>()[5]);
}

TEST(Model, Bf16KeepsFp32Masters) {
  Context ctx;
  const Model model = build(ctx, "parallel { strategy: 'local' } train { precision: BF16 }");
  for (const Parameter& parameter : model.parameters.all()) {
    EXPECT_EQ(parameter.master.dtype(), DType::kF32);
    EXPECT_EQ(parameter.variable.dtype(), DType::kBF16);
  }
}

}  // namespace
}  // namespace longship
