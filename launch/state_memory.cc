#include "launch/state_memory.h"

#include <fmt/format.h>

#include "runtime/telemetry/progress_line.h"

namespace longship {

StateMemory state_memory(const config::Run& run, int64_t num_parameters, int num_ranks) {
  const bool has_copies = run.train().precision() == config::Train::BF16;
  const auto stage = run.parallel().zero();
  // Of something that ranks share out from this stage on.
  const auto bytes = [&](config::Parallel::Zero first_stage, int64_t element_bytes) {
    const int64_t all = num_parameters * element_bytes;
    return stage >= first_stage ? (all + num_ranks - 1) / num_ranks : all;
  };
  // Without copies, ops read the masters.
  return {.weights = has_copies
                         ? bytes(config::Parallel::STAGE_3, 2) + bytes(config::Parallel::STAGE_1, 4)
                         : bytes(config::Parallel::STAGE_3, 4),
          .gradients = bytes(config::Parallel::STAGE_2, 4),
          .moments = bytes(config::Parallel::STAGE_1, run.optim().bf16_moments() ? 4 : 8)};
}

std::string state_memory_text(const config::Run& run, int64_t num_parameters, int num_ranks) {
  const StateMemory memory = state_memory(run, num_parameters, num_ranks);
  std::string text = fmt::format("{} for weights, {} for gradients and {} for moments on each rank",
                                 short_bytes(memory.weights), short_bytes(memory.gradients),
                                 short_bytes(memory.moments));
  if (run.parallel().zero() != config::Parallel::NONE)
    text +=
        fmt::format(" (ZeRO stage {} over {})", static_cast<int>(run.parallel().zero()), num_ranks);
  return text;
}

}  // namespace longship
