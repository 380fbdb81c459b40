#include "attention/registry.h"

#include <algorithm>
#include <map>

#include "attention/named_entry.h"
#include "attention/softmax_cpu.h"

namespace longship {

struct MixerResources {
  SoftmaxCpu softmax_kernel;
  std::map<std::string, std::unique_ptr<SoftmaxSchedule>, std::less<>> softmax_schedules;
  SharedRopeAngles rope_angles;
};

namespace {

std::unique_ptr<Mixer> make_full(const MixerDescriptor& layer, const std::string& prefix,
                                 ParameterList& parameters,
                                 const std::shared_ptr<MixerResources>& resources) {
  // Both pointers own all the resources, the kernel included.
  const std::shared_ptr<const SoftmaxSchedule> schedule(
      resources, resources->softmax_schedules.at(layer.strategy).get());
  const std::shared_ptr<SharedRopeAngles> rope_angles(resources, &resources->rope_angles);
  return std::make_unique<SoftmaxMixer>(layer.softmax, prefix + ".self_attn", parameters, schedule,
                                        rope_angles);
}

}  // namespace

std::span<const MixerBackend> mixer_backends() {
  static const std::vector<MixerBackend> table = {
      {.name = "full",
       .summary = "causal softmax attention with grouped queries, optionally in a sliding window",
       .strategies = {"ulysses", "ring", "token_ring", "gather_kv", "local"},
       .problems = [](const MixerDescriptor& layer) { return layer.softmax.problems(); },
       .make = make_full},
  };
  return table;
}

const MixerBackend& find_mixer_backend(std::string_view name) {
  return find_entry_or_throw(mixer_backends(), name, "attention backend");
}

std::vector<std::string> problems(const MixerDescriptor& layer, int num_ranks, Layout layout) {
  const StrategyUse use{.num_ranks = num_ranks,
                        .layout = layout,
                        .num_heads = layer.softmax.num_heads,
                        .num_kv_heads = layer.softmax.num_kv_heads,
                        .window = layer.softmax.window};
  std::vector<std::string> found;
  const MixerBackend* backend = find_entry(mixer_backends(), layer.backend);
  const Strategy* strategy = find_entry(strategies(), layer.strategy);
  if (backend == nullptr)
    found.push_back(fmt::format("unknown attention backend `{}`, expected {}", layer.backend,
                                known_names(mixer_backends())));
  if (strategy == nullptr) {
    found.push_back(fmt::format("unknown strategy `{}`, expected {}", layer.strategy,
                                known_names(strategies())));
  } else if (std::string refusal = strategy->refusal(use); !refusal.empty()) {
    found.push_back(std::move(refusal));
  }
  if (backend != nullptr && strategy != nullptr &&
      std::find(backend->strategies.begin(), backend->strategies.end(), strategy->name) ==
          backend->strategies.end())
    found.push_back(fmt::format("strategy `{}` cannot carry the backend `{}`: choose {}",
                                strategy->name, backend->name,
                                fmt::join(backend->strategies, " or ")));
  if (backend != nullptr)
    for (std::string& problem : backend->problems(layer)) found.push_back(std::move(problem));
  return found;
}

MixerFactory make_mixer_factory(std::vector<MixerDescriptor> layers, const Group& sp,
                                Layout layout) {
  std::vector<std::string> found;
  for (size_t i = 0; i < layers.size(); ++i)
    for (const std::string& problem : problems(layers[i], sp.size(), layout))
      found.push_back(fmt::format("layer {}: {}", i, problem));
  if (!found.empty())
    throw Error(ErrorCode::kConfig, {.what = "the attention of the model cannot be built",
                                     .found = fmt::format("{}", fmt::join(found, "\n            ")),
                                     .next = "correct these layers in the model's configuration"});

  auto resources = std::make_shared<MixerResources>();
  for (const MixerDescriptor& layer : layers)
    if (auto& schedule = resources->softmax_schedules[layer.strategy]; schedule == nullptr)
      schedule = find_strategy(layer.strategy).make(sp, resources->softmax_kernel);
  return [layers = std::move(layers), resources](int64_t layer, const std::string& prefix,
                                                 ParameterList& parameters) {
    LONGSHIP_CHECK(layer >= 0 && layer < static_cast<int64_t>(layers.size()),
                   "layer {} of a model of {} layers", layer, layers.size());
    const MixerDescriptor& descriptor = layers[static_cast<size_t>(layer)];
    return find_mixer_backend(descriptor.backend).make(descriptor, prefix, parameters, resources);
  };
}

}  // namespace longship
