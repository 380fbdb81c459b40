// Whole models trained on a GPU against the same on the CPU, in bf16, with the CPU in fp32 as the
// measure of what bf16 costs.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/gpu.h"
#include "runtime/ops/linear.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"
#include "tests/support/train_case.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::expect_same_bits;
using testing::relative_rms;
using testing::TrainOutcome;
using testing::weights_of;

config::Run tiny_run(const std::string& options) {
  return testing::resolved_run(
      "hidden_size: 128 intermediate_size: 192 num_layers: 3 tied_embeddings: false init_std: 0.1 "
      "attention { num_heads: 4 num_kv_heads: 2 head_size: 64 qk_norm: true qkv_bias: true }",
      "strategy: 'local'", options, 1);
}

Mesh one_rank() {
  return Mesh::make(Group::self(), 1, 1);
}

TrainOutcome train(Context ctx, const std::string& options, int num_steps) {
  return testing::train(std::move(ctx), tiny_run(options), one_rank(), num_steps);
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

TrainOutcome train_without_attention(Context ctx, int num_steps) {
  const TransformerShape shape{.vocab_size = testing::kTrainVocabulary,
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
  return testing::train(ctx, std::move(model), one_rank(), Layout::kContiguous, num_steps);
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
  const TrainOutcome exact = train(cpu, "precision: FP32", kSteps);
  const TrainOutcome rounded = train(cpu, "precision: BF16", kSteps);
  const TrainOutcome found = train(gpu_context(0), "precision: BF16", kSteps);
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
  const TrainOutcome expected = train_without_attention(cpu, kSteps);
  const TrainOutcome found = train_without_attention(gpu_context(0), kSteps);
  EXPECT_LT(distance(found.first_gradients, expected.first_gradients), 1e-5);
  for (size_t step = 0; step < kSteps; ++step) {
    EXPECT_NEAR(found.losses[step], expected.losses[step], 1e-5 * expected.losses[step]) << step;
    EXPECT_NEAR(found.norms[step], expected.norms[step], 1e-4 * expected.norms[step]) << step;
  }
}

TEST(TrainingOnGpu, RepeatsItsBitsWhenDeterministic) {
  const std::string options = "precision: BF16 deterministic: true";
  const Context ctx = gpu_context(0);
  ctx.memory->set_poison(true);
  expect_same_bits(train(ctx, options, 5), train(gpu_context(0), options, 5));
}

TEST(TrainingOnGpu, RecomputationChangesMemoryAndNoBits) {
  const std::string options = "precision: BF16 deterministic: true ";
  const TrainOutcome all = train(gpu_context(0), options + "recompute: NONE", 3);
  const TrainOutcome cheap = train(gpu_context(0), options + "recompute: SELECTIVE", 3);
  const TrainOutcome block = train(gpu_context(0), options + "recompute: BLOCK", 3);
  expect_same_bits(cheap, all);
  expect_same_bits(block, all);
  EXPECT_LT(cheap.peak_bytes, all.peak_bytes);
  EXPECT_LT(block.peak_bytes, cheap.peak_bytes);
}

TEST(TrainingOnGpu, AsksTheSystemForNoMemoryAfterTheSecondStep) {
  const TrainOutcome found = train(gpu_context(0), "precision: BF16 recompute: BLOCK", 8);
  for (size_t step = 2; step < found.system_allocations.size(); ++step)
    EXPECT_EQ(found.system_allocations[step], found.system_allocations[1]) << "step " << step;
}

TEST(TrainingOnGpu, NamesTheFirstBadTensorAndKeepsTheWeights) {
  const config::Run run = tiny_run("precision: BF16");
  Context ctx = gpu_context(0);
  Model model = make_model(ctx, run, Group::self());
  const Mesh mesh = one_rank();
  const auto exchange = make_parameter_exchange(ctx, run, model, mesh.world);
  AdamW optimizer(ctx, model.parameters, {});
  const Parameter& down = *model.parameters.find("model.layers.1.mlp.down_proj.weight");
  Context host;
  const Tensor bad = host.zeros(down.master.shape(), DType::kF32);
  bad.data<float>()[7] = std::nanf("");
  down.master.copy_from(bad);
  model.parameters.refresh_compute_copies();
  const std::vector<Tensor> before = weights_of(model.parameters);
  Batch batch = testing::random_training_batch({64}, 1);
  for (Tensor* tensor : {&batch.tokens_T, &batch.targets_T, &batch.loss_weights_T})
    *tensor = upload(ctx, *tensor);
  try {
    train_step(ctx, {model, *exchange, optimizer, mesh}, {&batch, 1}, {.learning_rate = 1e-3});
    FAIL() << "a step with NaN weights went through";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNonFinite);
    EXPECT_NE(std::string(error.what()).find(down.name), std::string::npos) << error.what();
  }
  const std::vector<Tensor> after = weights_of(model.parameters);
  for (size_t i = 0; i < before.size(); ++i)
    EXPECT_TRUE(bitwise_equal(before[i], after[i])) << "parameter " << i;
}

}  // namespace
}  // namespace longship
