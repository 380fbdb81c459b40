// The proof of sequence and data parallelism: a whole model, its loss and every parameter gradient,
// equal the run of one rank.
// ranks: 1 2 3 4 6 8 16
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "attention/registry.h"
#include "parallel/gradient_reduction.h"
#include "parallel/mesh.h"
#include "runtime/model/transformer.h"
#include "runtime/random.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::relative_rms;
using testing::world;

constexpr int64_t kNumHeads = 8;
constexpr int64_t kVocabulary = 29;

// One packed sequence of a data-parallel rank, whole.
struct Sample {
  std::vector<int64_t> cu_seqlens;
  Tensor tokens_S, targets_S;  // i32
  Tensor weights_S;            // fp32, 1 where the loss counts
};

// Documents of these lengths; a document's last token predicts nothing. Tokens before `loss_begin`
// do not count either.
Sample make_sample(const Context& ctx, const std::vector<int64_t>& lengths, uint64_t seed,
                   int64_t loss_begin = 0) {
  Sample sample{.cu_seqlens = {0}, .tokens_S = {}, .targets_S = {}, .weights_S = {}};
  for (int64_t length : lengths) sample.cu_seqlens.push_back(sample.cu_seqlens.back() + length);
  const int64_t total = sample.cu_seqlens.back();
  sample.tokens_S = ctx.empty({total}, DType::kI32);
  sample.targets_S = ctx.zeros({total}, DType::kI32);
  sample.weights_S = ctx.zeros({total}, DType::kF32);
  int32_t* tokens = sample.tokens_S.data<int32_t>();
  for (int64_t t = 0; t < total; ++t)
    tokens[t] = static_cast<int32_t>(uniform_index(seed, 1, static_cast<uint64_t>(t), kVocabulary));
  for (size_t d = 0; d < lengths.size(); ++d)
    for (int64_t t = sample.cu_seqlens[d]; t + 1 < sample.cu_seqlens[d + 1]; ++t) {
      sample.targets_S.data<int32_t>()[t] = tokens[t + 1];
      sample.weights_S.data<float>()[t] = t >= loss_begin ? 1 : 0;
    }
  return sample;
}

// A batch for two data-parallel ranks; one of them may have to compute both samples.
struct Batch {
  std::string name;
  std::vector<Sample> samples;
  double num_loss_tokens = 0;
};

std::vector<Batch> make_batches(const Context& ctx) {
  std::vector<int64_t> random;
  for (uint64_t d = 0; d < 8; ++d)
    random.push_back(static_cast<int64_t>(d % 3 == 1 ? 1 : uniform_index(5, 2, d, 19)));
  std::vector<Batch> batches;
  batches.push_back({"one document", {make_sample(ctx, {61}, 1), make_sample(ctx, {48}, 2)}});
  batches.push_back({"random documents, some of one token",
                     {make_sample(ctx, random, 3), make_sample(ctx, {1, 1, 30, 2, 0, 17}, 4)}});
  batches.push_back({"a document over at least four ranks of four or more",
                     {make_sample(ctx, {3, 52, 1, 8}, 5), make_sample(ctx, {1, 59, 4}, 6)}});
  batches.push_back({"all loss tokens on one rank",
                     {make_sample(ctx, {2, 62}, 7, 61), make_sample(ctx, {64}, 8, 64)}});
  for (Batch& batch : batches)
    for (const Sample& sample : batch.samples)
      for (int64_t t = 0; t < sample.weights_S.numel(); ++t)
        batch.num_loss_tokens += sample.weights_S.data<float>()[t];
  return batches;
}

struct ModelOptions {
  int64_t num_kv_heads = kNumHeads;
  bool qwen = false;  // biases and per-head norms, untied head
  bool recompute = false;
};

// Loss and the gradient of every parameter, by name.
struct Step {
  double loss = 0;
  std::vector<std::pair<std::string, Tensor>> gradients;
};

TransformerShape shape_of(const ModelOptions& options) {
  return {.vocab_size = kVocabulary,
          .hidden_size = 32,
          .intermediate_size = 40,
          .num_layers = 2,
          .init_std = 0.2,
          .tied_embeddings = !options.qwen,
          .recompute = options.recompute,
          .loss_chunk_tokens = 7};
}

// The layers of shape_of().
std::vector<LayerDescriptor> layers_of(const ModelOptions& options, const std::string& strategy) {
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
  return {layer, layer};
}

// A tiny model, the same on every rank.
struct Model {
  ParameterList parameters;
  Transformer transformer;

  Model(Context& ctx, const Group& sp, const std::string& strategy, Layout layout,
        const ModelOptions& options)
      : parameters(ctx, DType::kF32, 11),
        transformer(shape_of(options), make_mixer_factory(layers_of(options, strategy), sp, layout),
                    parameters) {}
};

SequencePlan plan_of(const Sample& sample, Layout layout, const Group& sp) {
  return SequencePlan::make(sample.cu_seqlens, layout, sp.size(), sp.rank());
}

// One optimizer step's loss and gradients, each data-parallel rank with its samples.
Step run(Context& ctx, const Batch& batch, const Mesh& mesh, const std::string& strategy,
         Layout layout, const ModelOptions& options) {
  Model model(ctx, mesh.sp, strategy, layout, options);
  double loss = 0;
  Tape tape;
  ctx.tape = &tape;
  for (size_t n = 0; n < batch.samples.size(); ++n) {
    if (static_cast<int>(n) % mesh.dp.size() != mesh.dp.rank()) continue;
    const Sample& sample = batch.samples[n];
    const SequencePlan plan = plan_of(sample, layout, mesh.sp);
    const Variable loss_sum = model.transformer.loss_sum(ctx, plan.shard(ctx, sample.tokens_S),
                                                         plan.shard(ctx, sample.targets_S),
                                                         plan.shard(ctx, sample.weights_S), plan);
    tape.backward(ctx, loss_sum, 1 / batch.num_loss_tokens);
    loss += *loss_sum.value().data<float>() / batch.num_loss_tokens;
  }
  ctx.tape = nullptr;
  all_reduce_gradients(ctx, model.parameters, mesh.world);

  Step step{.loss = mesh.world.all_reduce_value("loss", loss, ReduceOp::kSum), .gradients = {}};
  for (const Parameter& parameter : model.parameters.all())
    step.gradients.emplace_back(parameter.name, parameter.variable.gradient()->sum());
  return step;
}

Step run_one_rank(Context& ctx, const Batch& batch, const ModelOptions& options) {
  const Group self = Group::self();
  return run(ctx, batch, Mesh::make(self, 1, 1), "local", Layout::kContiguous, options);
}

void expect_equal(const Step& found, const Step& expected) {
  EXPECT_NEAR(found.loss, expected.loss, 1e-6 * expected.loss);
  ASSERT_EQ(found.gradients.size(), expected.gradients.size());
  for (size_t i = 0; i < found.gradients.size(); ++i)
    EXPECT_LE(relative_rms(found.gradients[i].second, expected.gradients[i].second), 1e-5)
        << found.gradients[i].first;
}

// Every way to lay dp in {1, 2} and sp over the ranks of this job.
std::vector<Mesh> meshes() {
  std::vector<Mesh> result = {Mesh::make(world(), 1, world().size())};
  if (world().size() % 2 == 0) result.push_back(Mesh::make(world(), 2, world().size() / 2));
  return result;
}

// Calls f(mesh, strategy, layout) for every combination, with a trace for failures.
template <class F>
void for_each_parallelism(F&& f) {
  for (const Mesh& mesh : meshes())
    for (const std::string strategy : {"ulysses", "ring", "token_ring", "gather_kv"})
      for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
        SCOPED_TRACE(fmt::format("dp {} x sp {}, {} {}", mesh.dp.size(), mesh.sp.size(), strategy,
                                 layout_name(layout)));
        f(mesh, strategy, layout);
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
  Sample sample = make_sample(ctx, {4, 1, 31, 12}, 9);
  for_each_parallelism([&](const Mesh& mesh, const std::string& strategy, Layout layout) {
    const SequencePlan plan = plan_of(sample, layout, mesh.sp);
    Model model(ctx, mesh.sp, strategy, layout, {.num_kv_heads = 2});
    auto hidden_states = [&] {
      const Tensor local =
          model.transformer.hidden_states(ctx, plan.shard(ctx, sample.tokens_S), plan).value();
      const Tensor by_rank = ctx.empty({plan.num_tokens(), local.dim(1)}, local.dtype());
      mesh.sp.all_gather("test", local, by_rank, plan.tokens_per_rank()).wait();
      return plan.unshard(ctx, by_rank);
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
