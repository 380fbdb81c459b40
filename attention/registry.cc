#include "attention/registry.h"

#include <cmath>
#include <map>
#include <set>

#include "attention/cuda/cudnn_attention.h"
#include "attention/gpu_support.h"
#include "attention/linear/linear_mixer.h"
#include "attention/linear/linear_parameter_names.h"
#include "attention/named_entry.h"
#include "attention/parallel_mixers.h"
#include "attention/softmax_calls.h"
#include "attention/softmax_cpu.h"

namespace longship {

struct MixerResources {
  template <class Schedule>
  using Schedules = std::map<std::string, std::shared_ptr<const Schedule>, std::less<>>;

  Group sp = Group::self();
  std::unique_ptr<const SoftmaxBlock> softmax_kernel;
  // By the strategy's name.
  Schedules<SoftmaxSchedule> softmax;
  Schedules<LatentSchedule> latent;
  Schedules<LinearSchedule> linear;
  SharedRopeAngles rope_angles;

  // Makes what a mixer of `family` needs of the strategy.
  void add(MixerFamily family, const std::string& strategy);
};

namespace {

// Throws Error(kConfig) naming the layer unless GPUs have kernels for the mixer.
void require_gpu_mixer(size_t layer, const MixerDescriptor& mixer) {
  if (const std::string refusal = gpu_refusal(mixer, DType::kBF16); !refusal.empty())
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("layer {} ({}) does not run on a GPU", layer, mixer.backend),
                 .found = refusal,
                 .next = "run this model on the CPU, or change this layer"});
}

// A pointer that owns all the resources, the kernel included.
template <class Part>
std::shared_ptr<Part> shared(const std::shared_ptr<MixerResources>& resources, Part* part) {
  return std::shared_ptr<Part>(resources, part);
}

std::unique_ptr<Mixer> make_full(const MixerDescriptor& mixer, const std::string& prefix,
                                 ParameterList& parameters,
                                 const std::shared_ptr<MixerResources>& resources) {
  return std::make_unique<SoftmaxMixer>(
      mixer.softmax, prefix, parameters,
      shared(resources, resources->softmax.at(mixer.strategy).get()),
      shared(resources, &resources->rope_angles));
}

std::unique_ptr<Mixer> make_latent(const MixerDescriptor& mixer, const std::string& prefix,
                                   ParameterList& parameters,
                                   const std::shared_ptr<MixerResources>& resources) {
  return std::make_unique<LatentMixer>(
      mixer.latent, prefix, parameters,
      shared(resources, resources->latent.at(mixer.strategy).get()),
      shared(resources, &resources->rope_angles));
}

std::unique_ptr<Mixer> make_linear(const MixerDescriptor& mixer, const std::string& prefix,
                                   ParameterList& parameters,
                                   const std::shared_ptr<MixerResources>& resources) {
  return std::make_unique<LinearMixer>(
      mixer.linear, prefix, parameters,
      LinearMixerResources{
          .schedule = shared(resources, resources->linear.at(mixer.strategy).get()),
          .sp = resources->sp,
          .rope_angles = shared(resources, &resources->rope_angles)});
}

std::vector<MixerBackend> make_backends() {
  std::vector<MixerBackend> table = {
      {.name = "full",
       .summary = "softmax attention with grouped queries: Llama, Qwen",
       .family = MixerFamily::kSoftmax,
       .module = "self_attn",
       .problems = [](const MixerDescriptor& mixer) { return mixer.softmax.problems(); },
       .make = make_full},
      {.name = "latent",
       .summary = "multi-head latent attention: DeepSeek-V2, Kimi Linear (arXiv 2405.04434)",
       .family = MixerFamily::kLatent,
       .module = "self_attn",
       .problems = [](const MixerDescriptor& mixer) { return mixer.latent.problems(); },
       .make = make_latent}};
  for (const LinearFamily& family : linear_families())
    table.push_back({.name = family.name,
                     .summary = family.summary,
                     .family = MixerFamily::kLinear,
                     .module = LinearParameterNames::of(family.name).module,
                     .problems =
                         [](const MixerDescriptor& mixer) {
                           std::vector<std::string> found = mixer.linear.problems();
                           if (mixer.linear.backend != mixer.backend)
                             found.push_back(fmt::format("options of `{}` for the backend `{}`",
                                                         mixer.linear.backend, mixer.backend));
                           return found;
                         },
                     .make = make_linear});
  return table;
}

}  // namespace

std::unique_ptr<const SoftmaxBlock> make_softmax_kernel(const AttentionTarget& target) {
  if (target.device == DeviceKind::kCpu) return std::make_unique<SoftmaxCpu>();
  return std::make_unique<SoftmaxCalls>(std::make_unique<CudnnAttention>(
      CudnnAttentionOptions{.deterministic = target.deterministic}));
}

void MixerResources::add(MixerFamily family, const std::string& name) {
  const Strategy& strategy = find_strategy(name);
  if (family == MixerFamily::kLinear) {
    if (auto& schedule = linear[name]; schedule == nullptr) schedule = strategy.linear(sp);
    return;
  }
  if (family == MixerFamily::kLatent && strategy.latent != nullptr) {
    if (auto& schedule = latent[name]; schedule == nullptr)
      schedule = strategy.latent(sp, *softmax_kernel);
    return;
  }
  if (auto& schedule = softmax[name]; schedule == nullptr)
    schedule = strategy.softmax(sp, *softmax_kernel);
  if (family == MixerFamily::kSoftmax) return;
  if (auto& schedule = latent[name]; schedule == nullptr)
    schedule = make_expanded_latent(softmax[name]);
}

std::span<const MixerBackend> mixer_backends() {
  static const std::vector<MixerBackend> table = make_backends();
  return table;
}

const MixerBackend& find_mixer_backend(std::string_view name) {
  return find_entry_or_throw(mixer_backends(), name, "attention backend");
}

StrategyUse strategy_use(const MixerDescriptor& mixer, int num_ranks, Layout layout) {
  StrategyUse use{
      .family = find_mixer_backend(mixer.backend).family, .num_ranks = num_ranks, .layout = layout};
  if (use.family == MixerFamily::kSoftmax) {
    use.window = mixer.softmax.window;
    use.causal = mixer.softmax.causal;
    use.num_sink_tokens = mixer.softmax.num_sink_tokens;
    use.sink_logit = mixer.softmax.sink_logits;
    use.anchor = mixer.softmax.anchor;
  }
  return use;
}

std::string module_conflict(const LayerDescriptor& layer) {
  std::set<std::string_view> modules;
  for (const MixerDescriptor& mixer : layer.mixers) {
    const MixerBackend* backend = find_entry(mixer_backends(), mixer.backend);
    if (backend != nullptr && !modules.insert(backend->module).second)
      return fmt::format(
          "two mixers of one layer would both keep their weights in `{}`: give them layers of "
          "their own",
          backend->module);
  }
  return {};
}

std::vector<std::string> option_problems(const MixerDescriptor& mixer) {
  std::vector<std::string> found = find_mixer_backend(mixer.backend).problems(mixer);
  for (const double multiplier : {mixer.input_multiplier, mixer.output_multiplier})
    if (!std::isfinite(multiplier))
      found.push_back(fmt::format("multiplier {} is not finite", multiplier));
  return found;
}

std::vector<std::string> problems(const MixerDescriptor& mixer, int num_ranks, Layout layout) {
  std::vector<std::string> found;
  const MixerBackend* backend = find_entry(mixer_backends(), mixer.backend);
  const Strategy* strategy = find_entry(strategies(), mixer.strategy);
  if (backend == nullptr)
    found.push_back(fmt::format("unknown attention backend `{}`, expected {}", mixer.backend,
                                known_names(mixer_backends())));
  if (strategy == nullptr)
    found.push_back(fmt::format("unknown strategy `{}`, expected {}", mixer.strategy,
                                known_names(strategies())));
  if (backend != nullptr && strategy != nullptr)
    if (std::string refusal = strategy->refusal(strategy_use(mixer, num_ranks, layout));
        !refusal.empty())
      found.push_back(std::move(refusal));
  if (backend != nullptr)
    for (std::string& problem : option_problems(mixer)) found.push_back(std::move(problem));
  return found;
}

std::vector<std::string> problems(const LayerDescriptor& layer, int num_ranks, Layout layout) {
  std::vector<std::string> found;
  if (layer.mixers.empty()) found.push_back("no mixer");
  for (const MixerDescriptor& mixer : layer.mixers)
    for (std::string& problem : problems(mixer, num_ranks, layout))
      found.push_back(std::move(problem));
  if (std::string conflict = module_conflict(layer); !conflict.empty())
    found.push_back(std::move(conflict));
  return found;
}

MixerFactory make_mixer_factory(std::vector<LayerDescriptor> layers, const Group& sp, Layout layout,
                                const AttentionTarget& target) {
  std::vector<std::string> found;
  for (size_t i = 0; i < layers.size(); ++i)
    for (const std::string& problem : problems(layers[i], sp.size(), layout))
      found.push_back(fmt::format("layer {}: {}", i, problem));
  if (!found.empty())
    throw Error(ErrorCode::kConfig, {.what = "the attention of the model cannot be built",
                                     .found = fmt::format("{}", fmt::join(found, "\n            ")),
                                     .next = "correct these layers in the model's configuration"});

  for (size_t i = 0; i < layers.size() && target.device == DeviceKind::kCuda; ++i)
    for (const MixerDescriptor& mixer : layers[i].mixers) require_gpu_mixer(i, mixer);

  auto resources = std::make_shared<MixerResources>();
  resources->sp = sp;
  resources->softmax_kernel = make_softmax_kernel(target);
  for (const LayerDescriptor& layer : layers)
    for (const MixerDescriptor& mixer : layer.mixers)
      resources->add(find_mixer_backend(mixer.backend).family, mixer.strategy);
  return
      [layers = std::move(layers), resources](int64_t layer, const std::string& prefix,
                                              ParameterList& parameters) -> std::unique_ptr<Mixer> {
        LONGSHIP_CHECK(layer >= 0 && layer < static_cast<int64_t>(layers.size()),
                       "layer {} of a model of {} layers", layer, layers.size());
        std::vector<ParallelMixers::Branch> branches;
        for (const MixerDescriptor& mixer : layers[static_cast<size_t>(layer)].mixers)
          branches.push_back(
              {find_mixer_backend(mixer.backend).make(mixer, prefix, parameters, resources),
               mixer.input_multiplier, mixer.output_multiplier});
        if (branches.size() == 1 && branches[0].input_multiplier == 1 &&
            branches[0].output_multiplier == 1)
          return std::move(branches[0].mixer);
        return std::make_unique<ParallelMixers>(std::move(branches));
      };
}

}  // namespace longship
