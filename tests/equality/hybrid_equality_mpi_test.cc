// Whole hybrid models, their loss and every parameter gradient, equal the run of one rank: layers
// of all families beside each other, each with its own strategy, wherever ranks cut documents.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include "runtime/random.h"
#include "tests/support/gradient_check.h"
#include "tests/support/model_step.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::Batch;
using testing::expect_equal;
using testing::make_sample;
using testing::ModelCase;
using testing::relative_rms;
using testing::run_step;
using testing::run_step_on_one_rank;
using testing::Step;
using testing::world;

constexpr int64_t kVocabulary = 23, kHidden = 16, kNumLayers = 2;
// Of the linear kernels' grid.
constexpr int64_t kChunk = 64;

MixerDescriptor full(const std::string& strategy, int64_t window = 0) {
  MixerDescriptor mixer{.backend = "full", .strategy = strategy};
  mixer.softmax = {.hidden_size = kHidden,
                   .num_heads = 4,
                   .num_kv_heads = 2,
                   .head_size = 4,
                   .window = window,
                   .init_std = 0.2,
                   .num_layers = kNumLayers};
  return mixer;
}

MixerDescriptor latent(const std::string& strategy) {
  MixerDescriptor mixer{.backend = "latent", .strategy = strategy};
  mixer.latent.hidden_size = kHidden;
  mixer.latent.num_heads = 2;
  mixer.latent.kv_lora_rank = 6;
  mixer.latent.qk_nope_head_size = 4;
  mixer.latent.qk_rope_head_size = 2;
  mixer.latent.v_head_size = 4;
  mixer.latent.init_std = 0.2;
  mixer.latent.num_layers = kNumLayers;
  return mixer;
}

MixerDescriptor linear(const std::string& backend, const std::string& strategy) {
  MixerDescriptor mixer{.backend = backend, .strategy = strategy};
  mixer.linear = LinearMixerOptions::for_backend(backend);
  mixer.linear.hidden_size = kHidden;
  mixer.linear.num_heads = 3;
  mixer.linear.key_size = 4;
  mixer.linear.value_size = 5;
  mixer.linear.init_std = 0.2;
  mixer.linear.num_layers = kNumLayers;
  return mixer;
}

struct Hybrid {
  std::string name;
  std::vector<LayerDescriptor> layers;
  std::vector<Layout> layouts = {Layout::kContiguous, Layout::kZigzag};
};

std::vector<Hybrid> hybrids() {
  MixerDescriptor half = full("usp");
  half.input_multiplier = 0.5;
  half.output_multiplier = 2;
  return {
      {"gated_delta by zeco, full by ring", {linear("gated_delta", "zeco"), full("ring")}},
      {"kda by lasp2, latent by gather_latent", {linear("kda", "lasp2"), latent("gather_latent")}},
      {"mamba2 by ulysses beside full by usp, full by token_ring",
       {LayerDescriptor({linear("mamba2", "ulysses"), half}), full("token_ring")}},
      {"lightning by lasp, a window by halo", {linear("lightning", "lasp"), full("halo", 9)}},
      {"gla by zeco, full by lightseq",
       {linear("gla", "zeco"), full("lightseq")},
       {Layout::kContiguous}},
      {"retention by lasp2, latent by ring", {linear("retention", "lasp2"), latent("ring")}},
  };
}

ModelCase case_of(const Hybrid& hybrid, Layout layout) {
  return {.shape = {.vocab_size = kVocabulary,
                    .hidden_size = kHidden,
                    .intermediate_size = 24,
                    .num_layers = kNumLayers,
                    .init_std = 0.2,
                    .loss_chunk_tokens = 32},
          .layers = hybrid.layers,
          .layout = layout};
}

// Documents that begin 1, C - 1, C and C + 1 tokens before a border of the zigzag layout's chunks,
// every other of which is one of the contiguous layout.
std::vector<int64_t> documents_cut_about_a_chunk(int num_ranks) {
  const int64_t chunk = kChunk + 2, cuts[] = {1, kChunk - 1, kChunk, kChunk + 1};
  std::vector<int64_t> lengths;
  int64_t begin = 0;
  for (int border = 1; border < 2 * num_ranks; ++border) {
    const int64_t next = border * chunk - cuts[(border / 2 + border) % 4];
    lengths.push_back(next - begin);
    begin = next;
  }
  lengths.push_back(2 * num_ranks * chunk - begin);
  return lengths;
}

std::vector<Batch> make_batches(const Context& ctx) {
  auto batch = [&](const char* name, const std::vector<int64_t>& lengths, uint64_t seed,
                   int64_t loss_begin = 0) {
    return Batch(name, {make_sample(ctx, lengths, seed, kVocabulary, loss_begin)});
  };
  std::vector<int64_t> random;
  for (uint64_t d = 0; d < 9; ++d)
    random.push_back(static_cast<int64_t>(d % 3 == 1 ? d : uniform_index(5, 2, d, 23)));
  std::vector<Batch> batches;
  batches.push_back(batch("one document", {75}, 1));
  batches.push_back(batch("random documents, one of them empty", random, 2));
  std::vector<int64_t> ones(29, 1);
  ones.push_back(3);
  batches.push_back(batch("one-token documents", ones, 3));
  batches.push_back(batch("a document over at least four ranks of four or more", {3, 59, 1, 8}, 4));
  batches.push_back(batch("cuts about a chunk", documents_cut_about_a_chunk(world().size()), 5));
  batches.push_back(batch("ranks without a token", {3}, 6));
  batches.push_back(batch("early ranks without a loss token", {2, 62}, 7, 33));
  std::vector<int64_t> first_only(49, 1);
  first_only.front() = 16;
  batches.push_back(batch("late ranks without a loss token", first_only, 8));
  return batches;
}

TEST(Hybrid, LossAndEveryGradientEqualOneRank) {
  Context ctx;
  const Mesh mesh = Mesh::make(world(), 1, world().size());
  const std::vector<Batch> batches = make_batches(ctx);
  for (const Hybrid& hybrid : hybrids())
    for (const Batch& batch : batches) {
      const Step expected = run_step_on_one_rank(ctx, batch, case_of(hybrid, Layout::kContiguous));
      EXPECT_GT(expected.loss, 1);
      for (Layout layout : hybrid.layouts) {
        SCOPED_TRACE(fmt::format("{}; {}; {}", hybrid.name, batch.name, layout_name(layout)));
        expect_equal(run_step(ctx, batch, mesh, case_of(hybrid, layout)), expected);
      }
    }
}

// Without the roundings of fp32 nothing is left to differ but the order of sums.
TEST(Hybrid, LossAndEveryGradientEqualOneRankInFp64) {
  Context ctx;
  const Mesh mesh = Mesh::make(world(), 1, world().size());
  const Batch batch = make_batches(ctx)[4];
  for (const Hybrid& hybrid : hybrids())
    for (Layout layout : hybrid.layouts) {
      SCOPED_TRACE(fmt::format("{}; {}", hybrid.name, layout_name(layout)));
      ModelCase model = case_of(hybrid, layout);
      model.dtype = DType::kF64;
      const Step found = run_step(ctx, batch, mesh, model);
      const Step expected = run_step_on_one_rank(ctx, batch, model);
      EXPECT_NEAR(found.loss, expected.loss, 1e-14 * expected.loss);
      for (size_t i = 0; i < found.gradients.size(); ++i)
        EXPECT_LE(relative_rms(found.gradients[i].second, expected.gradients[i].second), 1e-11)
            << found.gradients[i].first;
    }
}

TEST(Hybrid, TwoRunsGiveTheSameBits) {
  Context ctx;
  const Mesh mesh = Mesh::make(world(), 1, world().size());
  const Batch batch = make_batches(ctx)[1];
  for (const Hybrid& hybrid : hybrids()) {
    SCOPED_TRACE(hybrid.name);
    const ModelCase model = case_of(hybrid, hybrid.layouts.back());
    const Step first = run_step(ctx, batch, mesh, model);
    const Step second = run_step(ctx, batch, mesh, model);
    EXPECT_EQ(first.loss, second.loss);
    for (size_t i = 0; i < first.gradients.size(); ++i)
      EXPECT_EQ(relative_rms(first.gradients[i].second, second.gradients[i].second), 0)
          << first.gradients[i].first;
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
