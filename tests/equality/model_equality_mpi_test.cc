// The proof of sequence and data parallelism: a whole model, its loss and every parameter gradient,
// equal the run of one rank.
// ranks: 1 2 3 4 6 8 16
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/random.h"
#include "tests/support/gradient_check.h"
#include "tests/support/model_step.h"
#include "tests/support/mpi_main.h"
#include "tests/support/whole_batch.h"

namespace longship {
namespace {

using testing::Batch;
using testing::expect_equal;
using testing::make_sample;
using testing::Model;
using testing::ModelCase;
using testing::relative_rms;
using testing::run_step;
using testing::run_step_on_one_rank;
using testing::Sample;
using testing::Step;
using testing::world;

constexpr int64_t kNumHeads = 8;
constexpr int64_t kVocabulary = 29;

// A batch has a sample for each of two data-parallel ranks; one of them may have to compute both.
Sample sample_of(const Context& ctx, const std::vector<int64_t>& lengths, uint64_t seed,
                 int64_t loss_begin = 0) {
  return make_sample(ctx, lengths, seed, kVocabulary, loss_begin);
}

std::vector<Batch> make_batches(const Context& ctx) {
  std::vector<int64_t> random;
  for (uint64_t d = 0; d < 8; ++d)
    random.push_back(static_cast<int64_t>(d % 3 == 1 ? 1 : uniform_index(5, 2, d, 19)));
  return {{"one document", {sample_of(ctx, {61}, 1), sample_of(ctx, {48}, 2)}},
          {"random documents, some of one token",
           {sample_of(ctx, random, 3), sample_of(ctx, {1, 1, 30, 2, 0, 17}, 4)}},
          {"a document over at least four ranks of four or more",
           {sample_of(ctx, {3, 52, 1, 8}, 5), sample_of(ctx, {1, 59, 4}, 6)}},
          {"all loss tokens on one rank",
           {sample_of(ctx, {2, 62}, 7, 61), sample_of(ctx, {64}, 8, 64)}}};
}

struct ModelOptions {
  int64_t num_kv_heads = kNumHeads;
  bool qwen = false;  // biases and per-head norms, untied head
  bool recompute = false;
};

TransformerShape shape_of(const ModelOptions& options) {
  return {.vocab_size = kVocabulary,
          .hidden_size = 32,
          .intermediate_size = 40,
          .num_layers = 2,
          .init_std = 0.2,
          .tied_embeddings = !options.qwen,
          .recompute = options.recompute ? Recompute::kBlock : Recompute::kNone,
          .loss_chunk_tokens = 7};
}

ModelCase case_of(const ModelOptions& options, const std::string& strategy, Layout layout) {
  const TransformerShape shape = shape_of(options);
  MixerDescriptor layer;
  layer.strategy = strategy;
  layer.softmax = {.hidden_size = shape.hidden_size,
                   .num_heads = kNumHeads,
                   .num_kv_heads = options.num_kv_heads,
                   .head_size = 6,
                   .qkv_bias = options.qwen,
                   .qk_norm = options.qwen,
                   .init_std = shape.init_std,
                   .num_layers = shape.num_layers};
  return {.shape = shape, .layers = {layer, layer}, .layout = layout};
}

Step run(Context& ctx, const Batch& batch, const Mesh& mesh, const std::string& strategy,
         Layout layout, const ModelOptions& options) {
  return run_step(ctx, batch, mesh, case_of(options, strategy, layout));
}

Step run_one_rank(Context& ctx, const Batch& batch, const ModelOptions& options) {
  return run_step_on_one_rank(ctx, batch, case_of(options, "local", Layout::kContiguous));
}

// Every way to lay dp in {1, 2} and sp over the ranks of this job.
std::vector<Mesh> meshes() {
  std::vector<Mesh> result = {Mesh::make(world(), 1, world().size())};
  if (world().size() % 2 == 0) result.push_back(Mesh::make(world(), 2, world().size() / 2));
  return result;
}

// Calls f(mesh, strategy, layout) for every combination that is served, with a trace for failures.
template <class F>
void for_each_parallelism(F&& f) {
  for (const Mesh& mesh : meshes())
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (const Strategy* strategy :
           strategies_for({.num_ranks = mesh.sp.size(), .layout = layout})) {
        SCOPED_TRACE(fmt::format("dp {} x sp {}, {} {}", mesh.dp.size(), mesh.sp.size(),
                                 strategy->name, layout_name(layout)));
        f(mesh, std::string(strategy->name), layout);
      }
}

class ModelOfKvHeads : public ::testing::TestWithParam<int64_t> {};

TEST_P(ModelOfKvHeads, LossAndEveryGradientEqualOneRank) {
  Context ctx;
  const ModelOptions options = {.num_kv_heads = GetParam()};
  for (const Batch& batch : make_batches(ctx)) {
    SCOPED_TRACE(batch.name);
    const Step expected = run_one_rank(ctx, batch, options);
    EXPECT_GT(expected.loss, 1);
    for_each_parallelism([&](const Mesh& mesh, const std::string& strategy, Layout layout) {
      expect_equal(run(ctx, batch, mesh, strategy, layout, options), expected);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(OfEight, ModelOfKvHeads, ::testing::Values(1, 2, 8));

TEST(Model, EqualsOneRankWithBiasesNormsUntiedHeadAndRecomputation) {
  Context ctx;
  const Batch batch = std::move(make_batches(ctx)[1]);
  const Step expected = run_one_rank(ctx, batch, {.num_kv_heads = 2, .qwen = true});
  for_each_parallelism([&](const Mesh& mesh, const std::string& strategy, Layout layout) {
    expect_equal(run(ctx, batch, mesh, strategy, layout,
                     {.num_kv_heads = 2, .qwen = true, .recompute = true}),
                 expected);
  });
}

TEST(Model, TwoRunsGiveTheSameBits) {
  Context ctx;
  const Batch batch = std::move(make_batches(ctx)[1]);
  for_each_parallelism([&](const Mesh& mesh, const std::string& strategy, Layout layout) {
    const Step first = run(ctx, batch, mesh, strategy, layout, {.num_kv_heads = 2});
    const Step second = run(ctx, batch, mesh, strategy, layout, {.num_kv_heads = 2});
    EXPECT_EQ(first.loss, second.loss);
    for (size_t i = 0; i < first.gradients.size(); ++i)
      EXPECT_EQ(relative_rms(first.gradients[i].second, second.gradients[i].second), 0)
          << first.gradients[i].first;
  });
}

TEST(Model, ATokenReachesOnlyLaterPositionsOfItsOwnDocument) {
  Context ctx;
  Sample sample = sample_of(ctx, {4, 1, 31, 12}, 9);
  for_each_parallelism([&](const Mesh& mesh, const std::string& strategy, Layout layout) {
    const SequencePlan plan = sample.plan(layout, mesh.sp);
    Model model(ctx, mesh.sp, case_of({.num_kv_heads = 2}, strategy, layout));
    auto hidden_states = [&] {
      const Tensor local =
          model.transformer.hidden_states(ctx, plan.shard(ctx, sample.tokens_S), plan).value();
      return testing::gather(ctx, mesh.sp, plan, local);
    };
    const Tensor before = hidden_states();
    for (int64_t changed : {1, 4, 5, 20, 35, 47}) {
      int32_t& token = sample.tokens_S.data<int32_t>()[changed];
      const int32_t kept = std::exchange(token, (token + 1) % kVocabulary);
      const Tensor after = hidden_states();
      token = kept;
      const auto end =
          *std::upper_bound(sample.cu_seqlens.begin(), sample.cu_seqlens.end(), changed);
      for (int64_t t = 0; t < plan.num_tokens(); ++t) {
        const Tensor a = before.slice(0, t, 1), b = after.slice(0, t, 1);
        const bool differs = std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.num_bytes())) != 0;
        EXPECT_EQ(differs, t >= changed && t < end) << "token " << changed << ", output " << t;
      }
    }
  });
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
