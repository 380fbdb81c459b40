#include "launch/inference_config.h"

#include "launch/config.h"
#include "launch/validate.h"

namespace longship {

config::Run inference_config(const Checkpoint& checkpoint, std::span<const std::string> overrides,
                             int num_ranks, std::optional<int64_t> context) {
  const std::string origin = checkpoint.directory().string();
  config::Run run = parse_config(checkpoint.header().config_text, origin, {});
  run.mutable_parallel()->set_dp(1);
  run.mutable_parallel()->set_sp(num_ranks);
  if (run.parallel().strategy() == "local" && num_ranks > 1)
    run.mutable_parallel()->set_strategy("ring");
  run.mutable_train()->set_global_batch(1);
  run.mutable_train()->set_micro_batch(1);
  if (context) run.mutable_train()->set_context(*context);
  for (const std::string& assignment : overrides) apply_override(run, assignment);
  validate(run, num_ranks, origin);
  return run;
}

}  // namespace longship
