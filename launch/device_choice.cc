#include "launch/device_choice.h"

#include "attention/gpu_support.h"
#include "launch/layers.h"
#include "launch/model.h"
#include "runtime/cuda/device_info.h"

namespace longship {
namespace {

// Of the model; every rank knows them alike.
std::string model_obstacles(const config::Run& run) {
  std::string found;
  for (const ConfiguredMixer& mixer : good_layers(run).mixers)
    if (const std::string refusal = gpu_refusal(mixer.descriptor, compute_dtype(run));
        !refusal.empty())
      found += fmt::format("{}{}: {}", found.empty() ? "" : "; ", mixer.block, refusal);
  return found;
}

}  // namespace

std::string gpu_obstacle(const config::Run& run, const Group& world) {
  const VisibleGpus gpus = visible_gpus();
  const std::string own = gpus.names.empty() ? gpus.none_reason : "";
  const std::vector<std::string> of_ranks = world.all_gather_bytes("device.gpus", own);
  for (size_t rank = 0; rank < of_ranks.size(); ++rank)
    if (!of_ranks[rank].empty())
      return world.size() == 1 ? of_ranks[rank] : fmt::format("rank {}: {}", rank, of_ranks[rank]);
  return model_obstacles(run);
}

}  // namespace longship
