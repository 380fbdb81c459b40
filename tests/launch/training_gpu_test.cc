// Whole models trained on a GPU against the same on the CPU, in bf16, with the CPU in fp32 as the
// measure of what bf16 costs.
#include <gtest/gtest.h>

#include <cmath>

#include "launch/config.h"
#include "launch/model.h"
#include "launch/train_step.h"
#include "launch/validate.h"
#include "runtime/gpu.h"
#include "runtime/ops/linear.h"
#include "runtime/random.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::relative_rms;

constexpr int64_t kVocabulary = 300;

config::Run tiny_run(const std::string& train) {
  config::Run run = parse_config(
      "model { vocab_size: 300 hidden_size: 128 intermediate_size: 192 num_layers: 3 "
      "tied_embeddings: false init_std: 0.1 "
      "attention { num_heads: 4 num_kv_heads: 2 head_size: 64 qk_norm: true qkv_bias: true } } "
      "parallel { strategy: 'local' } train { loss_chunk_tokens: 96 seed: 5 " +
          train + " }",
      "test", {});
  resolve_automatic_values(run, 1);
  return run;
}

// Documents of these lengths, of random tokens, on the host.
Batch random_batch(const std::vector<int64_t>& lengths, uint64_t seed) {
  const Context host;
  std::vector<int64_t> cu_seqlens = {0};
  for (int64_t length : lengths) cu_seqlens.push_back(cu_seqlens.back() + length);
  const int64_t num_tokens = cu_seqlens.back();
  Batch batch{.tokens_T = host.empty({num_tokens}, DType::kI32),
              .targets_T = host.empty({num_tokens}, DType::kI32),
              .loss_weights_T = host.empty({num_tokens}, DType::kF32),
              .plan = SequencePlan::local(cu_seqlens)};
  auto token = [&](int64_t t) {
    return static_cast<int32_t>(
        uniform_index(seed, 3, static_cast<uint64_t>(t), static_cast<uint64_t>(kVocabulary)));
  };
  for (int64_t t = 0; t < num_tokens; ++t) {
    batch.tokens_T.data<int32_t>()[t] = token(t);
    batch.targets_T.data<int32_t>()[t] = token(t + 1);
    const bool counts = t % 5 != 0;
    batch.loss_weights_T.data<float>()[t] = counts ? 1.0f : 0.0f;
    batch.num_loss_tokens += counts;
  }
  return batch;
}

Batch batch_on(const Context& ctx, Batch batch) {
  for (Tensor* tensor : {&batch.tokens_T, &batch.targets_T, &batch.loss_weights_T})
    *tensor = upload(ctx, *tensor);
  return batch;
}

struct Outcome {
  std::vector<double> losses, norms;
  std::vector<Tensor> first_gradients, weights;  // on the host
  std::vector<int64_t> system_allocations;       // after each step
  int64_t peak_bytes = 0;                        // beyond weights and optimizer
};

std::vector<Tensor> to_host(const ParameterList& parameters, bool gradients) {
  const auto host = std::make_shared<Memory>();
  std::vector<Tensor> copies;
  for (const Parameter& parameter : parameters.all())
    copies.push_back(
        (gradients ? parameter.variable.gradient()->sum() : parameter.master).to(host));
  return copies;
}

// Steps of two micro-batches each.
Outcome train(Context& ctx, Model model, int num_steps) {
  AdamW optimizer(ctx, model.parameters, {});
  const Mesh mesh = Mesh::make(Group::self(), 1, 1);
  const int64_t live = ctx.memory->live_bytes();
  ctx.memory->reset_peak();
  Outcome outcome;
  for (int step = 0; step < num_steps; ++step) {
    // Two kinds of batches in turn, so that the same data come back and the loss can fall.
    const uint64_t seed = static_cast<uint64_t>(step % 2);
    const std::vector<Batch> batches = {batch_on(ctx, random_batch({200, 1, 130, 37}, 10 + seed)),
                                        batch_on(ctx, random_batch({301}, 20 + seed))};
    const StepOutcome done =
        train_step(ctx, model, optimizer, mesh, batches, {.learning_rate = 2e-3, .clip_norm = 1.0});
    outcome.losses.push_back(done.loss);
    outcome.norms.push_back(done.grad_norm);
    if (step == 0) outcome.first_gradients = to_host(model.parameters, /*gradients=*/true);
    outcome.system_allocations.push_back(ctx.memory->num_system_allocations());
  }
  outcome.peak_bytes = ctx.memory->peak_bytes() - live;
  outcome.weights = to_host(model.parameters, /*gradients=*/false);
  return outcome;
}

Outcome train(Context ctx, const std::string& options, int num_steps) {
  const config::Run run = tiny_run(options);
  ctx.deterministic = run.train().deterministic();
  return train(ctx, make_model(ctx, run, Group::self()), num_steps);
}

// A matrix in the place of attention, which GPUs compute in bf16 only.
class MatrixMixer final : public Mixer {
 public:
  explicit MatrixMixer(Variable weight_EE) : weight_EE_(std::move(weight_EE)) {}
  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan&,
                   const Variable& residual_TE) override {
    return linear_add(ctx, residual_TE, x_TE, weight_EE_);
  }

 private:
  Variable weight_EE_;
};

Outcome train_without_attention(Context ctx, int num_steps) {
  const TransformerShape shape{.vocab_size = kVocabulary,
                               .hidden_size = 128,
                               .intermediate_size = 192,
                               .num_layers = 3,
                               .init_std = 0.1,
                               .recompute = Recompute::kSelective,
                               .loss_chunk_tokens = 96};
  Model model{.parameters = ParameterList(ctx, DType::kF32, 5), .transformer = nullptr};
  const MixerFactory make_mixer = [](int64_t, const std::string& prefix,
                                     ParameterList& parameters) {
    return std::make_unique<MatrixMixer>(
        parameters.add(prefix + ".mixer.weight", {128, 128}, {.a = 0.1}, /*decay=*/true));
  };
  model.transformer = std::make_unique<Transformer>(shape, make_mixer, model.parameters);
  return train(ctx, std::move(model), num_steps);
}

// The largest of any tensor.
double distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = relative_rms(a[i], b[i]);
    if (!(error <= worst)) worst = error;  // NaN stays
  }
  return worst;
}

TEST(TrainingOnGpu, FollowsTheCpuAsFarAsBf16Allows) {
  constexpr int kSteps = 12;
  Context cpu;
  cpu.num_threads = 4;
  const Outcome exact = train(cpu, "precision: FP32", kSteps);
  const Outcome rounded = train(cpu, "precision: BF16", kSteps);
  const Outcome found = train(gpu_context(0), "precision: BF16", kSteps);
  EXPECT_LT(exact.losses.back(), 0.9 * exact.losses.front());
  // Both round to bf16 in many places, in different orders.
  const double cost = distance(rounded.first_gradients, exact.first_gradients);
  EXPECT_LT(distance(found.first_gradients, exact.first_gradients), 2 * cost);
  EXPECT_LT(cost, 0.05);
  for (int step = 0; step < kSteps; ++step) {
    const auto s = static_cast<size_t>(step);
    EXPECT_NEAR(found.losses[s], exact.losses[s], 0.01 * exact.losses[s]) << "step " << step;
    EXPECT_NEAR(found.norms[s], exact.norms[s], 0.05 * exact.norms[s]) << "step " << step;
  }
  EXPECT_NEAR(found.losses[0], exact.losses[0], 2e-3 * exact.losses[0]);
}

TEST(TrainingOnGpu, FollowsTheCpuInFp32) {
  constexpr int kSteps = 6;
  Context cpu;
  cpu.num_threads = 4;
  const Outcome expected = train_without_attention(cpu, kSteps);
  const Outcome found = train_without_attention(gpu_context(0), kSteps);
  EXPECT_LT(distance(found.first_gradients, expected.first_gradients), 1e-5);
  for (size_t step = 0; step < kSteps; ++step) {
    EXPECT_NEAR(found.losses[step], expected.losses[step], 1e-5 * expected.losses[step]) << step;
    EXPECT_NEAR(found.norms[step], expected.norms[step], 1e-4 * expected.norms[step]) << step;
  }
}

void expect_same_bits(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  for (size_t i = 0; i < a.weights.size(); ++i)
    EXPECT_TRUE(bitwise_equal(a.weights[i], b.weights[i])) << "parameter " << i;
}

TEST(TrainingOnGpu, RepeatsItsBitsWhenDeterministic) {
  const std::string options = "precision: BF16 deterministic: true";
  const Context ctx = gpu_context(0);
  ctx.memory->set_poison(true);
  expect_same_bits(train(ctx, options, 5), train(gpu_context(0), options, 5));
}

TEST(TrainingOnGpu, RecomputationChangesMemoryAndNoBits) {
  const std::string options = "precision: BF16 deterministic: true ";
  const Outcome all = train(gpu_context(0), options + "recompute: NONE", 3);
  const Outcome cheap = train(gpu_context(0), options + "recompute: SELECTIVE", 3);
  const Outcome block = train(gpu_context(0), options + "recompute: BLOCK", 3);
  expect_same_bits(cheap, all);
  expect_same_bits(block, all);
  EXPECT_LT(cheap.peak_bytes, all.peak_bytes);
  EXPECT_LT(block.peak_bytes, cheap.peak_bytes);
}

TEST(TrainingOnGpu, AsksTheSystemForNoMemoryAfterTheSecondStep) {
  const Outcome found = train(gpu_context(0), "precision: BF16 recompute: BLOCK", 8);
  for (size_t step = 2; step < found.system_allocations.size(); ++step)
    EXPECT_EQ(found.system_allocations[step], found.system_allocations[1]) << "step " << step;
}

TEST(TrainingOnGpu, NamesTheFirstBadTensorAndKeepsTheWeights) {
  const config::Run run = tiny_run("precision: BF16");
  Context ctx = gpu_context(0);
  Model model = make_model(ctx, run, Group::self());
  AdamW optimizer(ctx, model.parameters, {});
  const Mesh mesh = Mesh::make(Group::self(), 1, 1);
  const Parameter& down = *model.parameters.find("model.layers.1.mlp.down_proj.weight");
  Context host;
  const Tensor bad = host.zeros(down.master.shape(), DType::kF32);
  bad.data<float>()[7] = std::nanf("");
  down.master.copy_from(bad);
  model.parameters.refresh_compute_copies();
  const std::vector<Tensor> before = to_host(model.parameters, /*gradients=*/false);
  const std::vector<Batch> batches = {batch_on(ctx, random_batch({64}, 1))};
  try {
    train_step(ctx, model, optimizer, mesh, batches, {.learning_rate = 1e-3});
    FAIL() << "a step with NaN weights went through";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNonFinite);
    EXPECT_NE(std::string(error.what()).find(down.name), std::string::npos) << error.what();
  }
  const std::vector<Tensor> after = to_host(model.parameters, /*gradients=*/false);
  for (size_t i = 0; i < before.size(); ++i)
    EXPECT_TRUE(bitwise_equal(before[i], after[i])) << "parameter " << i;
}

}  // namespace
}  // namespace longship
