#include "launch/inference_config.h"

#include "launch/auto_strategy.h"
#include "launch/config.h"
#include "launch/validate.h"

namespace longship {

config::Run inference_config(const Checkpoint& checkpoint, std::span<const std::string> overrides,
                             int num_ranks, std::optional<int64_t> context) {
  const std::string origin = checkpoint.directory().string();
  config::Run run = parse_config(checkpoint.header().config_text, origin, {});
  config::Parallel& parallel = *run.mutable_parallel();
  parallel.set_dp(1);
  parallel.set_sp(num_ranks);
  if (num_ranks > 1) {
    // What was trained on one rank alone is spread by the defaults.
    if (parallel.strategy() == "local") parallel.clear_strategy();
    if (parallel.linear_strategy() == "local") parallel.clear_linear_strategy();
    for (config::Mixer& mixer : *run.mutable_model()->mutable_mixer())
      if (mixer.strategy() == "local") mixer.clear_strategy();
  }
  // What was trained on GPUs may run where there is none.
  if (run.train().device() == config::Train::CUDA) run.mutable_train()->clear_device();
  parallel.clear_zero();
  run.mutable_train()->set_global_batch(1);
  run.mutable_train()->set_micro_batch(1);
  if (context) run.mutable_train()->set_context(*context);
  for (const std::string& assignment : overrides) apply_override(run, assignment);
  validate(run, num_ranks, origin);
  if (has_auto_strategy(run))
    throw Error(ErrorCode::kConfig, {.what = "strategy `auto` is for training",
                                     .next = "name a strategy; `longship inspect --strategies` "
                                             "lists them"});
  if (parallel.zero() != config::Parallel::NONE)
    throw Error(ErrorCode::kConfig,
                {.what = "parallel.zero is for training",
                 .expected = "NONE: without training every rank holds all weights",
                 .found = config::Parallel::Zero_Name(parallel.zero())});
  return run;
}

}  // namespace longship
