// The attention backends that a configuration can name and the mixers they make. A new backend is
// one more entry in the table of registry.cc; the strategies are in strategy.h.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/latent_mixer.h"
#include "attention/linear/linear_mixer_options.h"
#include "attention/softmax_mixer.h"
#include "attention/strategy.h"

namespace longship {

// A mixer, as configured.
struct MixerDescriptor {
  std::string backend = "full";
  std::string strategy = "ulysses";
  // Factors of its input and of its output.
  double input_multiplier = 1;
  double output_multiplier = 1;
  // Those of the backend's family count.
  SoftmaxMixerOptions softmax = {};
  LatentMixerOptions latent = {};
  LinearMixerOptions linear = {};
};

// The mixers of a layer, whose outputs are added; almost always one.
struct LayerDescriptor {
  LayerDescriptor(MixerDescriptor mixer) : mixers{std::move(mixer)} {}
  explicit LayerDescriptor(std::vector<MixerDescriptor> all) : mixers(std::move(all)) {}

  std::vector<MixerDescriptor> mixers;
};

// Kernels, schedules and caches that the mixers of one model share.
struct MixerResources;

// What a layer computes to mix its tokens.
struct MixerBackend {
  std::string_view name;
  std::string_view summary;
  MixerFamily family = MixerFamily::kSoftmax;
  // Under which its parameters stand in a layer: "model.layers.3.<module>".
  std::string module;
  // What is wrong with the options of a mixer of this backend, one line each.
  std::vector<std::string> (*problems)(const MixerDescriptor& mixer) = nullptr;
  // The mixer of the layer `prefix` ("model.layers.3"); it keeps of `resources` what it needs.
  std::unique_ptr<Mixer> (*make)(const MixerDescriptor& mixer, const std::string& prefix,
                                 ParameterList& parameters,
                                 const std::shared_ptr<MixerResources>& resources) = nullptr;
};

// The table, in the order in which it is worth printing.
std::span<const MixerBackend> mixer_backends();

// Throws Error(kConfig) listing the known names.
const MixerBackend& find_mixer_backend(std::string_view name);

// What `mixer`, of a known backend, asks of its strategy.
StrategyUse strategy_use(const MixerDescriptor& mixer, int num_ranks, Layout layout);

// Why the mixers of a layer cannot stand beside each other; empty when they can.
std::string module_conflict(const LayerDescriptor& layer);

// What is wrong with the options of a mixer of a known backend, whatever its strategy.
std::vector<std::string> option_problems(const MixerDescriptor& mixer);

// What is wrong with the names of one mixer or layer and with their use over `num_ranks` ranks of
// sp, one line each; the options of the backends included. Empty when it can be built.
std::vector<std::string> problems(const MixerDescriptor& mixer, int num_ranks, Layout layout);
std::vector<std::string> problems(const LayerDescriptor& layer, int num_ranks, Layout layout);

// Where the kernels of a model's attention run.
struct AttentionTarget {
  DeviceKind device = DeviceKind::kCpu;
  // On GPUs: the backward gives the same bits in every run, with slower kernels. That of the CPU
  // always does.
  bool deterministic = false;
};

// The kernel that softmax layers compute with there. Error(kConfig) where a build has no GPU code.
std::unique_ptr<const SoftmaxBlock> make_softmax_kernel(const AttentionTarget& target);

// The factory of a model whose layer i is layers[i], for plans of `layout` over the ranks of `sp`.
// Throws Error(kConfig) listing the problems() of every layer, or naming the first layer that GPUs
// have no kernels for if they are the target. Layers of the same strategy share one schedule; what
// the mixers need lives as long as any of them. Collective.
MixerFactory make_mixer_factory(std::vector<LayerDescriptor> layers, const Group& sp, Layout layout,
                                const AttentionTarget& target = {});

}  // namespace longship
