#include "tests/support/train_case.h"

#include <gtest/gtest.h>

#include "launch/config.h"
#include "launch/layers.h"
#include "launch/validate.h"
#include "runtime/gpu.h"
#include "runtime/random.h"
#include "tests/support/op_check.h"

namespace longship::testing {

Batch share_of(const Context& ctx, const Batch& whole, Layout layout, const Group& sp) {
  const Context host;
  Batch share = whole;
  share.plan = SequencePlan::make(whole.plan.cu_seqlens(), layout, sp.size(), sp.rank());
  for (Tensor* tensor : {&share.tokens_T, &share.targets_T, &share.loss_weights_T})
    *tensor = upload(ctx, share.plan.shard(host, *tensor));
  return share;
}

config::Run resolved_run(const std::string& model, const std::string& parallel,
                         const std::string& train, int num_ranks) {
  config::Run run = parse_config(fmt::format("model {{ vocab_size: {} {} }} parallel {{ {} }} "
                                             "train {{ loss_chunk_tokens: 96 seed: 5 {} }}",
                                             kTrainVocabulary, model, parallel, train),
                                 "test", {});
  resolve_automatic_values(run, num_ranks);
  return run;
}

Batch random_training_batch(const std::vector<int64_t>& lengths, uint64_t seed) {
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
        uniform_index(seed, 3, static_cast<uint64_t>(t), static_cast<uint64_t>(kTrainVocabulary)));
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

std::vector<Tensor> gradients_of(const ParameterList& parameters) {
  const auto host = std::make_shared<Memory>();
  std::vector<Tensor> copies;
  for (const Parameter& parameter : parameters.all())
    copies.push_back(parameter.variable.gradient()->sum().to(host));
  return copies;
}

std::vector<Tensor> weights_of(const ParameterList& parameters) {
  const auto host = std::make_shared<Memory>();
  std::vector<Tensor> copies;
  for (const Parameter& parameter : parameters.all()) copies.push_back(parameter.master.to(host));
  return copies;
}

TrainOutcome train(Context& ctx, Model model, const Mesh& mesh, Layout layout, int num_steps) {
  const auto exchange = make_parameter_exchange(ctx, {}, model, mesh.world);
  AdamW optimizer(ctx, model.parameters, {});
  const int64_t live = ctx.memory->live_bytes();
  ctx.memory->reset_peak();
  TrainOutcome outcome;
  for (int step = 0; step < num_steps; ++step) {
    const uint64_t seed = static_cast<uint64_t>(step % 2);
    const Batch batches[] = {random_training_batch({200, 1, 130, 37}, 10 + seed),
                             random_training_batch({301}, 20 + seed)};
    std::vector<Batch> shares;
    for (int n = mesh.dp.rank(); n < 2; n += mesh.dp.size())
      shares.push_back(share_of(ctx, batches[n], layout, mesh.sp));
    const StepOutcome done = train_step(ctx, {model, *exchange, optimizer, mesh}, shares,
                                        {.learning_rate = 2e-3, .clip_norm = 1.0});
    outcome.losses.push_back(done.loss);
    outcome.norms.push_back(done.grad_norm);
    if (step == 0) outcome.first_gradients = gradients_of(model.parameters);
    outcome.system_allocations.push_back(ctx.memory->num_system_allocations());
  }
  outcome.peak_bytes = ctx.memory->peak_bytes() - live;
  outcome.weights = weights_of(model.parameters);
  return outcome;
}

TrainOutcome train(Context ctx, const config::Run& run, const Mesh& mesh, int num_steps) {
  ctx.deterministic = run.train().deterministic();
  return train(ctx, make_model(ctx, run, mesh.sp), mesh, layout_of(run), num_steps);
}

void expect_same_bits(const TrainOutcome& a, const TrainOutcome& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  ASSERT_EQ(a.weights.size(), b.weights.size());
  for (size_t i = 0; i < a.weights.size(); ++i)
    EXPECT_TRUE(bitwise_equal(a.weights[i], b.weights[i])) << "parameter " << i;
}

}  // namespace longship::testing
