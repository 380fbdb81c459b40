#include "tests/support/zero_training.h"

#include <gtest/gtest.h>

#include "launch/config.h"
#include "launch/layers.h"
#include "launch/optimizer_options.h"
#include "launch/validate.h"
#include "tests/support/train_case.h"

namespace longship::testing {

config::Run zero_run(const std::string& stage, const std::string& options, int num_ranks) {
  config::Run run = parse_config(
      "output_dir: 'none' data { tokens: 'none' } "
      "model { vocab_size: 300 hidden_size: 128 intermediate_size: 288 num_layers: 2 init_std: 0.1 "
      "attention { num_heads: 2 num_kv_heads: 1 head_size: 64 } } "
      "optim { learning_rate: 2e-3 clip_norm: 0.5 } "
      "train { steps: 9 context: 64 loss_chunk_tokens: 32 seed: 5 } "
      "parallel { zero: " +
          stage + " } ",
      "test", {});
  const config::Run more = parse_config(options, "test", {});
  run.MergeFrom(more);
  run.mutable_train()->set_global_batch(num_ranks);
  validate(run, num_ranks, "test");
  resolve_automatic_values(run, num_ranks);
  return run;
}

ZeroTraining::ZeroTraining(Context& ctx, const config::Run& run, const Group& world)
    : ctx_(ctx),
      run_(run),
      mesh_(Mesh::make(world, run.parallel().dp(), run.parallel().sp())),
      model_(make_model(ctx, run, mesh_.sp)),
      exchange_(make_parameter_exchange(ctx, run, model_, world)),
      optimizer_(ctx, model_.parameters, optimizer_options(run.optim())) {}

Batch ZeroTraining::random_batch(uint64_t seed) const {
  return share_of(ctx_, random_training_batch({21, 1, 35, 7}, seed), layout_of(run_), mesh_.sp);
}

StepOutcome ZeroTraining::step(uint64_t seed, int num_micro_batches) {
  std::vector<Batch> batches;
  for (int n = 0; n < num_micro_batches; ++n)
    batches.push_back(
        random_batch(100 * seed + static_cast<uint64_t>(n * mesh_.dp.size() + mesh_.dp.rank())));
  return train_step(ctx_, {model_, *exchange_, optimizer_, mesh_}, batches,
                    {.learning_rate = 2e-3, .clip_norm = run_.optim().clip_norm()});
}

std::vector<std::string> ZeroTraining::state() const {
  const std::vector<NamedTensor> moments = optimizer_.state();
  std::vector<std::string> all;
  size_t index = 0;
  for (const Parameter& parameter : model_.parameters.all()) {
    const Tensor tensors[] = {parameter.master, moments[index].tensor, moments[index + 1].tensor};
    index += 2;
    for (const Tensor& tensor : tensors) {
      const Tensor host = tensor.to(std::make_shared<Memory>());
      const std::string own(reinterpret_cast<const char*>(host.raw()),
                            static_cast<size_t>(host.num_bytes()));
      const bool is_whole = run_.parallel().zero() == config::Parallel::NONE;
      std::string whole;
      for (const std::string& piece : mesh_.world.all_gather_bytes("test.state", own))
        whole += is_whole && !whole.empty() ? "" : piece;
      all.push_back(std::move(whole));
    }
  }
  return all;
}

ZeroOutcome zero_steps(Context& ctx, const config::Run& run, const Group& world, int num_steps,
                       int num_micro_batches) {
  ZeroTraining training(ctx, run, world);
  ZeroOutcome outcome;
  for (int step = 0; step < num_steps; ++step) {
    const StepOutcome done = training.step(static_cast<uint64_t>(step), num_micro_batches);
    outcome.losses.push_back(done.loss);
    outcome.norms.push_back(done.grad_norm);
  }
  outcome.state = training.state();
  return outcome;
}

void expect_bits_of_none(const std::function<ZeroOutcome(const std::string& stage)>& train) {
  const ZeroOutcome none = train("NONE");
  EXPECT_GT(none.norms[0], 0.5);  // what gradients are clipped to
  EXPECT_NE(none.losses[0], none.losses[2]);
  for (const char* stage : {"STAGE_1", "STAGE_2", "STAGE_3"})
    EXPECT_TRUE(train(stage) == none) << stage;
}

}  // namespace longship::testing
