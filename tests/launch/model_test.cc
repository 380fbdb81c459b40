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
