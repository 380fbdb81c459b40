// Training with CUDA graphs against the same kernel by kernel: bit by bit.
#include "launch/step_graphs.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "launch/layers.h"
#include "launch/train_step.h"
#include "runtime/cuda/cuda_error.h"
#include "runtime/gpu.h"
#include "runtime/ops/linear.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_check.h"
#include "tests/support/train_case.h"

namespace longship {
namespace {

using Lengths = std::vector<int64_t>;  // of the documents of a micro-batch
using Step = std::vector<Lengths>;     // its micro-batches

config::Run tiny_run(const std::string& train) {
  return testing::resolved_run(
      "hidden_size: 128 intermediate_size: 192 num_layers: 2 init_std: 0.1 "
      "attention { num_heads: 4 num_kv_heads: 2 head_size: 64 qk_norm: true qkv_bias: true }",
      "strategy: 'ulysses' layout: ZIGZAG", "precision: BF16 deterministic: true " + train, 1);
}

// Random tokens, of which as many count as `seed` says.
Batch batch_of(const Context& ctx, const Lengths& lengths, uint64_t seed) {
  Batch batch = testing::random_training_batch(lengths, seed);
  for (uint64_t t = 0; t < seed % 7; ++t) {
    float& weight = batch.loss_weights_T.data<float>()[t];
    batch.num_loss_tokens -= static_cast<int64_t>(weight);
    weight = 0;
  }
  return testing::share_of(ctx, batch, Layout::kZigzag, Group::self());
}

// A model in training on a GPU.
class Trainer {
 public:
  explicit Trainer(const config::Run& run)
      : Trainer([&](Context& ctx) { return make_model(ctx, run, Group::self()); }) {}
  explicit Trainer(const std::function<Model(Context& ctx)>& make_model)
      : ctx_(gpu_context(0)), model_(make_model(with_exact_kernels(ctx_))) {}
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  void use_graphs(StepGraphsOptions options = {}) {
    if (options.most_tokens == 0) options.most_tokens = 4096;
    options.say = [this](const std::string& line) { said_.push_back(line); };
    graphs_.emplace(ctx_, model_, std::move(options));
  }

  // Tokens, the number of those that count, and the learning rate differ from step to step.
  void step(const Step& micro_batches) {
    std::vector<Batch> batches;
    for (const Lengths& lengths : micro_batches)
      batches.push_back(batch_of(ctx_, lengths, num_batches_++));
    const double rate = 1e-3 * (1 + static_cast<double>(outcome_.losses.size()));
    const StepOutcome done =
        train_step(ctx_, {model_, *exchange_, optimizer_, mesh_, graphs_ ? &*graphs_ : nullptr},
                   batches, {.learning_rate = rate, .clip_norm = 0.5});
    outcome_.losses.push_back(done.loss);
    outcome_.norms.push_back(done.grad_norm);
    outcome_.weights = testing::weights_of(model_.parameters);
    outcome_.system_allocations.push_back(ctx_.memory->num_system_allocations());
  }

  const Memory& memory() const { return *ctx_.memory; }
  ParameterList& parameters() { return model_.parameters; }
  const testing::TrainOutcome& outcome() const { return outcome_; }
  const StepGraphs& graphs() const { return *graphs_; }
  const std::vector<std::string>& said() const { return said_; }

 private:
  static Context& with_exact_kernels(Context& ctx) {
    ctx.memory->set_poison(true);
    ctx.deterministic = true;
    return ctx;
  }

  Context ctx_;
  Model model_;
  const Mesh mesh_ = Mesh::make(Group::self(), 1, 1);
  const std::unique_ptr<ParameterExchange> exchange_ =
      make_parameter_exchange(ctx_, {}, model_, mesh_.world);
  AdamW optimizer_{ctx_, model_.parameters, {}};
  uint64_t num_batches_ = 0;
  testing::TrainOutcome outcome_;
  std::vector<std::string> said_;
  std::optional<StepGraphs> graphs_;
};

testing::TrainOutcome without_graphs(const std::vector<Step>& steps, const std::string& train) {
  Trainer trainer(tiny_run(train));
  for (const Step& step : steps) trainer.step(step);
  return trainer.outcome();
}

struct Counts {
  int64_t recorded, launched;
};

// Trains with and without graphs, and expects the same bits.
Counts counts_of_same_bits(const std::vector<Step>& steps, const RecentGraphsOptions& kept = {},
                           const std::string& train = "") {
  Trainer trainer(tiny_run(train));
  trainer.use_graphs({.kept = kept});
  for (const Step& step : steps) trainer.step(step);
  testing::expect_same_bits(trainer.outcome(), without_graphs(steps, train));
  // What gradients are clipped to matters, and so does what is learned.
  EXPECT_GT(trainer.outcome().norms[0], 0.5);
  EXPECT_NE(trainer.outcome().losses.front(), trainer.outcome().losses.back());
  for (const std::string& line : trainer.said()) ADD_FAILURE() << line;
  return {trainer.graphs().num_recorded(), trainer.graphs().num_launches()};
}

TEST(StepGraphsOnGpu, GiveTheBitsOfKernelsEnqueuedOneByOne) {
  for (const char* recompute : {"NONE", "SELECTIVE", "BLOCK"}) {
    const Counts counts = counts_of_same_bits(std::vector<Step>(10, {{256}}), {},
                                              std::string("recompute: ") + recompute);
    EXPECT_EQ(counts.recorded, 1) << recompute;
    EXPECT_GE(counts.launched, 5) << recompute;
  }
}

TEST(StepGraphsOnGpu, AddToGradientsOfEarlierMicroBatches) {
  const Lengths one = {256}, packed = {100, 1, 155};
  const Counts counts = counts_of_same_bits(std::vector<Step>(8, {one, one, packed, one}));
  // The first of a step, those that add, and those of the packed one, which all add.
  EXPECT_EQ(counts.recorded, 3);
  EXPECT_GE(counts.launched, 3 * 3 + 3);
}

TEST(StepGraphsOnGpu, ServeTheDocumentsTheyWereMadeOfOnly) {
  const Step a = {{256}}, b = {{200}}, packed = {{100, 156}}, two = {{200}, {256}};
  const Counts counts = counts_of_same_bits(
      {a, a, a, a, a, b, a, packed, a, b, b, two, b, a, packed, b, a, packed, two, packed});
  EXPECT_GE(counts.recorded, 2);
  EXPECT_GE(counts.launched, 6);
}

TEST(StepGraphsOnGpu, MakeRoomForOthersAndComeBack) {
  const Step a = {{256}}, b = {{77, 100}};
  std::vector<Step> steps;
  for (const Step& step : {a, b, a}) steps.insert(steps.end(), 9, step);
  const Counts counts = counts_of_same_bits(steps, {.most_graphs = 1, .idle_lookups = 2});
  EXPECT_EQ(counts.recorded, 3);
  EXPECT_GE(counts.launched, 8);
}

// More packed micro-batches than the tables of attention that are kept with the GPU.
TEST(StepGraphsOnGpu, KeepTheTablesThatTheyRead) {
  const Step packed = {{100, 156}};
  std::vector<Step> steps(6, packed);
  for (int64_t length = 10; length < 90; ++length) steps.push_back({{length, 256 - length}});
  steps.insert(steps.end(), 3, packed);
  const Counts counts = counts_of_same_bits(steps);
  EXPECT_EQ(counts.recorded, 1);
  EXPECT_GE(counts.launched, 4);
}

TEST(StepGraphsOnGpu, AskTheSystemForNoMemoryOnceTheyAreMade) {
  Trainer trainer(tiny_run(""));
  trainer.use_graphs();
  for (int step = 0; step < 12; ++step) trainer.step({{256}, {100, 156}});
  EXPECT_EQ(trainer.graphs().num_recorded(), 2);
  const std::vector<int64_t>& allocations = trainer.outcome().system_allocations;
  for (size_t step = 6; step < allocations.size(); ++step)
    EXPECT_EQ(allocations[step], allocations[5]) << "step " << step;
  const int64_t live = trainer.memory().live_bytes();
  trainer.step({{256}, {100, 156}});
  EXPECT_EQ(trainer.memory().live_bytes(), live);
}

TEST(StepGraphsOnGpu, AreNotMadeOfLongMicroBatches) {
  Trainer trainer(tiny_run(""));
  trainer.use_graphs({.most_tokens = 255});
  for (int step = 0; step < 6; ++step) trainer.step({{256}});
  EXPECT_EQ(trainer.graphs().num_recorded(), 0);
}

TEST(StepGraphsOnGpu, DoNotHideWhatIsNotFinite) {
  Trainer trainer(tiny_run(""));
  trainer.use_graphs();
  for (int step = 0; step < 6; ++step) trainer.step({{256}});
  EXPECT_GT(trainer.graphs().num_launches(), 0);
  const Parameter& down = *trainer.parameters().find("model.layers.1.mlp.down_proj.weight");
  const Tensor bad = down.master.to(std::make_shared<Memory>());
  bad.data<float>()[7] = std::nanf("");
  down.master.copy_from(bad);
  trainer.parameters().refresh_compute_copies();
  testing::expect_error(ErrorCode::kNonFinite, {down.name}, [&] { trainer.step({{256}}); });
}

// A matrix in the place of attention, whose forward does something more.
class OddMixer final : public Mixer {
 public:
  OddMixer(Variable weight_EE, std::function<void(Context&, const Tensor&)> odd)
      : weight_EE_(std::move(weight_EE)), odd_(std::move(odd)) {}
  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan&,
                   const Variable& residual_TE) override {
    odd_(ctx, x_TE.value());
    return linear_add(ctx, residual_TE, x_TE, weight_EE_);
  }

 private:
  Variable weight_EE_;
  std::function<void(Context&, const Tensor&)> odd_;
};

void expect_training_goes_on_without_graphs(const std::function<void(Context&, const Tensor&)>& odd,
                                            const std::string& reason) {
  const auto make = [&](Context& ctx) {
    Model model{.parameters = ParameterList(ctx, DType::kBF16, 5), .transformer = nullptr};
    const MixerFactory make_mixer = [&](int64_t, const std::string& prefix,
                                        ParameterList& parameters) {
      return std::make_unique<OddMixer>(
          parameters.add(prefix + ".mixer.weight", {128, 128}, {.a = 0.1}, /*decay=*/true), odd);
    };
    model.transformer =
        std::make_unique<Transformer>(TransformerShape{.vocab_size = testing::kTrainVocabulary,
                                                       .hidden_size = 128,
                                                       .intermediate_size = 192,
                                                       .num_layers = 2,
                                                       .init_std = 0.1},
                                      make_mixer, model.parameters);
    return model;
  };
  Trainer plain(make), trainer(make);
  trainer.use_graphs();
  // The first of a step and another one.
  for (int step = 0; step < 8; ++step)
    for (Trainer* each : {&plain, &trainer}) each->step({{200}, {256}});
  testing::expect_same_bits(trainer.outcome(), plain.outcome());
  EXPECT_EQ(trainer.graphs().num_recorded(), 0);
  ASSERT_EQ(trainer.said().size(), 1u);
  EXPECT_NE(trainer.said()[0].find(reason), std::string::npos) << trainer.said()[0];
}

TEST(StepGraphsOnGpu, LetTrainingGoOnWhereTheHostWaitsForTheGpu) {
  expect_training_goes_on_without_graphs(
      [](Context& ctx, const Tensor&) { ctx.gpu->compute->synchronize(); }, "StreamCapture");
}

TEST(StepGraphsOnGpu, LetTrainingGoOnWhereSomethingComesFromTheHost) {
  expect_training_goes_on_without_graphs(
      [](Context& ctx, const Tensor&) {
        const float value = 1;
        upload(ctx, Tensor::from<float>(std::make_shared<Memory>(), {1}, {&value, 1}));
      },
      "from the host");
}

TEST(StepGraphsOnGpu, LetTrainingGoOnWhereRecordingThrowsHalfWay) {
  int num_calls = 0;
  expect_training_goes_on_without_graphs(
      [&](Context& ctx, const Tensor&) {
        cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
        check_cuda(cudaStreamIsCapturing(compute_stream(ctx), &status), "ask for a recording");
        if (status == cudaStreamCaptureStatusActive && ++num_calls == 2)
          throw Error(ErrorCode::kInternal, {.what = "no second layer"});
      },
      "no second layer");
}

}  // namespace
}  // namespace longship
