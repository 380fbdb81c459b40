#include "launch/step_flops.h"

#include <gtest/gtest.h>

#include "launch/config.h"
#include "launch/validate.h"

namespace longship {
namespace {

double flops_of(const std::string& model_text, std::vector<std::vector<int64_t>> batches) {
  Context ctx;
  config::Run run = parse_config(
      "parallel { strategy: 'local' linear_strategy: 'local' } model { vocab_size: 20 "
      "hidden_size: 16 intermediate_size: 24 num_layers: 2 " +
          model_text + " }",
      "model", {});
  resolve_automatic_values(run, 1);
  const Model model = make_model(ctx, run, Group::self());
  std::vector<Batch> micro_batches(batches.size());
  for (size_t i = 0; i < batches.size(); ++i)
    micro_batches[i].plan = SequencePlan::local(batches[i]);
  return step_flops(run, model, micro_batches);
}

// Weights of a layer: norms 2 x 16, q and o 2 x 16 x 16, k and v 2 x 8 x 16, SwiGLU 3 x 16 x 24;
// of the rest: a norm of 16 and a table of 20 x 16.
constexpr double kWeights = 2 * (32 + 512 + 256 + 1152) + 16 + 320;

TEST(StepFlops, AreSixPerWeightAndTokenAndThoseOfTheVisiblePairs) {
  const std::string attention = "attention { num_heads: 4 num_kv_heads: 2 }";
  // Documents of 10 and 5 tokens, then one of 7; 2 layers of 4 heads of 4 features.
  const double pairs = 55 + 15 + 28;
  const double expected = 6 * kWeights * 22 + 2 * 4 * 6 * (4 + 4) * pairs;
  EXPECT_EQ(flops_of(attention, {{0, 10, 15}, {0, 7}}), expected);
  // A head of its own adds no work: the table is then only looked up.
  EXPECT_EQ(flops_of(attention + " tied_embeddings: false", {{0, 10, 15}, {0, 7}}), expected);
}

TEST(StepFlops, CountWhatAWindowShows) {
  EXPECT_EQ(flops_of("attention { num_heads: 4 num_kv_heads: 2 window: 3 }", {{0, 10}}),
            6 * kWeights * 10 + 2 * 4 * 6 * (4 + 4) * (1 + 2 + 8 * 3));
}

TEST(StepFlops, OfLinearLayersAreThoseOfTheirStates) {
  const char* layers =
      "layers: 'gated_delta, full' mixer { name: 'full' attention { num_heads: 4 } } "
      "mixer { name: 'gated_delta' linear { num_heads: 2 key_size: 4 value_size: 8 } }";
  // Twice the tokens in documents of the same length: everything doubles.
  EXPECT_EQ(flops_of(layers, {{0, 10, 20}}), 2 * flops_of(layers, {{0, 10}}));
  // What grows faster than the tokens is the softmax layer alone.
  EXPECT_EQ(flops_of(layers, {{0, 20}}) - 2 * flops_of(layers, {{0, 10}}),
            4 * 6 * (4 + 4) * (210 - 2 * 55));
}

}  // namespace
}  // namespace longship
