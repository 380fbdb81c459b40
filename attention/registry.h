// The attention backends that a configuration can name and the mixers they make. A new backend is
// one more entry in the table of registry.cc; the strategies are in strategy.h.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/softmax_mixer.h"
#include "attention/strategy.h"

namespace longship {

// One layer's mixer, as configured.
struct MixerDescriptor {
  std::string backend = "full";
  std::string strategy = "ulysses";
  SoftmaxMixerOptions softmax = {};  // of backend "full"
};

// Kernels, schedules and caches that the mixers of one model share.
struct MixerResources;

// What a layer computes to mix its tokens.
struct MixerBackend {
  std::string_view name;
  std::string_view summary;
  std::vector<std::string_view> strategies;  // that can carry it, by name
  // What is wrong with the options of a layer of this backend, one line each.
  std::vector<std::string> (*problems)(const MixerDescriptor& layer) = nullptr;
  // The mixer of the layer `prefix` ("model.layers.3"); it keeps of `resources` what it needs.
  std::unique_ptr<Mixer> (*make)(const MixerDescriptor& layer, const std::string& prefix,
                                 ParameterList& parameters,
                                 const std::shared_ptr<MixerResources>& resources) = nullptr;
};

// The table, in the order in which it is worth printing.
std::span<const MixerBackend> mixer_backends();

// Throws Error(kConfig) listing the known names.
const MixerBackend& find_mixer_backend(std::string_view name);

// What is wrong with the names of one layer and with their use over `num_ranks` ranks of sp, one
// line each; the options of its backend included. Empty when the layer can be built.
std::vector<std::string> problems(const MixerDescriptor& layer, int num_ranks, Layout layout);

// The factory of a model whose layer i is layers[i], for plans of `layout` over the ranks of `sp`.
// Throws Error(kConfig) listing the problems() of every layer. Layers of the same strategy share
// one schedule; what the mixers need lives as long as any of them.
MixerFactory make_mixer_factory(std::vector<MixerDescriptor> layers, const Group& sp,
                                Layout layout);

}  // namespace longship
