#include "attention/registry.h"

#include <algorithm>
#include <map>

#include "attention/softmax_cpu.h"

namespace longship {

struct MixerResources {
  SoftmaxCpu softmax_kernel;
  std::map<std::string, std::unique_ptr<SoftmaxSchedule>, std::less<>> softmax_schedules;
  SharedRopeAngles rope_angles;
};

namespace {

template <class Entry>
const Entry* find(std::span<const Entry> table, std::string_view name) {
  const auto entry =
      std::find_if(table.begin(), table.end(), [&](const Entry& e) { return e.name == name; });
  return entry == table.end() ? nullptr : &*entry;
}

template <class Entry>
std::string known_names(std::span<const Entry> table) {
  std::vector<std::string_view> names;
  for (const Entry& entry : table) names.push_back(entry.name);
  return fmt::format("one of: {}", fmt::join(names, ", "));
}

template <class Entry>
const Entry& find_or_throw(std::span<const Entry> table, std::string_view name,
                           std::string_view kind) {
  if (const Entry* entry = find(table, name)) return *entry;
  throw Error(ErrorCode::kConfig, {.what = fmt::format("unknown {}", kind),
                                   .expected = known_names(table),
                                   .found = fmt::format("`{}`", name)});
}

std::unique_ptr<Mixer> make_full(const MixerDescriptor& layer, const std::string& prefix,
                                 ParameterList& parameters,
                                 const std::shared_ptr<MixerResources>& resources) {
  // Both pointers own all the resources, the kernel included.
  const std::shared_ptr<const SoftmaxSchedule> schedule(
      resources, resources->softmax_schedules.at(layer.strategy).get());
  const std::shared_ptr<SharedRopeAngles> rope_angles(resources, &resources->rope_angles);
  return std::make_unique<SoftmaxMixer>(layer.softmax, prefix, parameters, schedule, rope_angles);
}

}  // namespace

std::span<const Strategy> strategies() {
  static const std::vector<Strategy> table = {
      {.name = "ulysses",
       .summary = "all-to-all from tokens to whole heads and back (arXiv 2309.14509)",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .refuses = "nothing; ranks beyond the number of query heads compute no attention",
       .make = [](const Group& sp,
                  const SoftmaxBlock& kernel) { return make_ulysses(sp, kernel); }},
      {.name = "ring",
       .summary = "keys and values travel from rank to rank (arXiv 2310.01889)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .refuses = "nothing; the contiguous layout leaves early ranks idle",
       .make = [](const Group& sp, const SoftmaxBlock& kernel) { return make_ring(sp, kernel); }},
      {.name = "token_ring",
       .summary = "queries travel from rank to rank, partial outputs return (arXiv 2412.20501)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .refuses = "nothing; the contiguous layout leaves late ranks idle",
       .make = [](const Group& sp,
                  const SoftmaxBlock& kernel) { return make_token_ring(sp, kernel); }},
      {.name = "gather_kv",
       .summary = "all-gather of keys and values, one KV head at a time (arXiv 2407.21783)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .refuses = "nothing; the contiguous layout leaves early ranks idle",
       .make = [](const Group& sp,
                  const SoftmaxBlock& kernel) { return make_gather_kv(sp, kernel); }},
      {.name = "local",
       .summary = "no communication: one rank holds the whole sequence",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .max_ranks = 1,
       .refuses = "more than one rank",
       .make = [](const Group&, const SoftmaxBlock& kernel) { return make_local(kernel); }},
  };
  return table;
}

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

std::string Strategy::refusal(const StrategyUse& use) const {
  if (max_ranks > 0 && use.num_ranks > max_ranks) {
    std::vector<std::string_view> others;
    for (const Strategy& other : longship::strategies())
      if (other.max_ranks == 0 || other.max_ranks >= use.num_ranks) others.push_back(other.name);
    return fmt::format("strategy `{}` serves at most {} rank(s) of sp, not {}: choose {}", name,
                       max_ranks, use.num_ranks, fmt::join(others, " or "));
  }
  if (std::find(layouts.begin(), layouts.end(), use.layout) == layouts.end())
    return fmt::format("strategy `{}` does not serve the layout `{}`: choose `{}`", name,
                       layout_name(use.layout), layout_name(layouts.front()));
  return {};
}

const Strategy& find_strategy(std::string_view name) {
  return find_or_throw(strategies(), name, "sequence-parallel strategy");
}

const MixerBackend& find_mixer_backend(std::string_view name) {
  return find_or_throw(mixer_backends(), name, "attention backend");
}

std::vector<std::string> problems(const MixerDescriptor& layer, const StrategyUse& use) {
  std::vector<std::string> found;
  const MixerBackend* backend = find(mixer_backends(), layer.backend);
  const Strategy* strategy = find(strategies(), layer.strategy);
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
  const StrategyUse use{.num_ranks = sp.size(), .layout = layout};
  std::vector<std::string> found;
  for (size_t i = 0; i < layers.size(); ++i)
    for (const std::string& problem : problems(layers[i], use))
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
