#include "tests/support/model_step.h"

#include <gtest/gtest.h>

#include "parallel/gradient_reduction.h"
#include "runtime/random.h"
#include "tests/support/gradient_check.h"

namespace longship::testing {

SequencePlan Sample::plan(Layout layout, const Group& sp) const {
  return SequencePlan::make(cu_seqlens, layout, sp.size(), sp.rank());
}

Sample make_sample(const Context& ctx, const std::vector<int64_t>& lengths, uint64_t seed,
                   int64_t vocabulary, int64_t loss_begin) {
  Sample sample{.cu_seqlens = {0}, .tokens_S = {}, .targets_S = {}, .weights_S = {}};
  for (int64_t length : lengths) sample.cu_seqlens.push_back(sample.cu_seqlens.back() + length);
  const int64_t total = sample.cu_seqlens.back();
  sample.tokens_S = ctx.empty({total}, DType::kI32);
  sample.targets_S = ctx.zeros({total}, DType::kI32);
  sample.weights_S = ctx.zeros({total}, DType::kF32);
  int32_t* tokens = sample.tokens_S.data<int32_t>();
  for (int64_t t = 0; t < total; ++t)
    tokens[t] = static_cast<int32_t>(
        uniform_index(seed, 1, static_cast<uint64_t>(t), static_cast<uint64_t>(vocabulary)));
  for (size_t d = 0; d < lengths.size(); ++d)
    for (int64_t t = sample.cu_seqlens[d]; t + 1 < sample.cu_seqlens[d + 1]; ++t) {
      sample.targets_S.data<int32_t>()[t] = tokens[t + 1];
      sample.weights_S.data<float>()[t] = t >= loss_begin ? 1 : 0;
    }
  return sample;
}

Batch::Batch(std::string batch_name, std::vector<Sample> batch_samples)
    : name(std::move(batch_name)), samples(std::move(batch_samples)) {
  for (const Sample& sample : samples)
    for (int64_t t = 0; t < sample.weights_S.numel(); ++t)
      num_loss_tokens += sample.weights_S.data<float>()[t];
}

Model::Model(Context& ctx, const Group& sp, const ModelCase& model)
    : parameters(ctx, model.dtype, 11),
      transformer(model.shape, make_mixer_factory(model.layers, sp, model.layout), parameters) {}

Step run_step(Context& ctx, const Batch& batch, const Mesh& mesh, const ModelCase& model_case) {
  Model model(ctx, mesh.sp, model_case);
  double loss = 0;
  Tape tape;
  ctx.tape = &tape;
  for (size_t n = 0; n < batch.samples.size(); ++n) {
    if (static_cast<int>(n) % mesh.dp.size() != mesh.dp.rank()) continue;
    const Sample& sample = batch.samples[n];
    const SequencePlan plan = sample.plan(model_case.layout, mesh.sp);
    const Variable loss_sum = model.transformer.loss_sum(ctx, plan.shard(ctx, sample.tokens_S),
                                                         plan.shard(ctx, sample.targets_S),
                                                         plan.shard(ctx, sample.weights_S), plan);
    tape.backward(ctx, loss_sum, 1 / batch.num_loss_tokens);
    loss += *loss_sum.value().to(DType::kF64).data<double>() / batch.num_loss_tokens;
  }
  ctx.tape = nullptr;
  GradientReduction(ctx, model.parameters, mesh.world).finish();

  Step step{.loss = mesh.world.all_reduce_value("loss", loss, ReduceOp::kSum), .gradients = {}};
  for (const Parameter& parameter : model.parameters.all())
    step.gradients.emplace_back(parameter.name, parameter.variable.gradient()->sum());
  return step;
}

Step run_step_on_one_rank(Context& ctx, const Batch& batch, ModelCase model) {
  model.layout = Layout::kContiguous;
  for (LayerDescriptor& layer : model.layers)
    for (MixerDescriptor& mixer : layer.mixers) mixer.strategy = "local";
  return run_step(ctx, batch, Mesh::make(Group::self(), 1, 1), model);
}

void expect_equal(const Step& found, const Step& expected) {
  EXPECT_NEAR(found.loss, expected.loss, 1e-6 * expected.loss);
  ASSERT_EQ(found.gradients.size(), expected.gradients.size());
  for (size_t i = 0; i < found.gradients.size(); ++i) {
    const auto& [name, gradient] = found.gradients[i];
    EXPECT_LE(relative_rms(gradient, expected.gradients[i].second), 1e-5) << name;
  }
}

}  // namespace longship::testing
