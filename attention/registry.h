// The attention backends and sequence-parallel strategies that a configuration can name, and the
// mixers they make. A new backend or strategy is one more entry in a table of registry.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/softmax_mixer.h"
#include "parallel/group.h"
#include "parallel/sequence_plan.h"

namespace longship {

// One layer's mixer, as configured.
struct MixerDescriptor {
  std::string backend = "full";
  std::string strategy = "ulysses";
  SoftmaxMixerOptions softmax = {};  // of backend "full"
};

// How a job would use a strategy.
struct StrategyUse {
  int num_ranks = 1;  // of the sp axis
  Layout layout = Layout::kContiguous;
};

// How the ranks of the sp axis share the attention of a layer.
struct Strategy {
  std::string_view name;
  std::string_view summary;     // what it does and the paper, in one line
  std::vector<Layout> layouts;  // that it serves, the best one first
  int max_ranks = 0;            // of the sp axis; 0 = any number
  std::string_view refuses;     // what it cannot serve, in words
  std::unique_ptr<SoftmaxSchedule> (*make)(const Group& sp, const SoftmaxBlock& kernel) = nullptr;

  // Why this strategy cannot serve `use` and what would do; empty when it can.
  std::string refusal(const StrategyUse& use) const;
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
  // The mixer keeps of `resources` what it needs.
  std::unique_ptr<Mixer> (*make)(const MixerDescriptor& layer, const std::string& prefix,
                                 ParameterList& parameters,
                                 const std::shared_ptr<MixerResources>& resources) = nullptr;
};

// The tables, in the order in which they are worth printing.
std::span<const Strategy> strategies();
std::span<const MixerBackend> mixer_backends();

// Throw Error(kConfig) listing the known names.
const Strategy& find_strategy(std::string_view name);
const MixerBackend& find_mixer_backend(std::string_view name);

// What is wrong with the names of one layer and with their use, one line each; the options of its
// backend included. Empty when the layer can be built.
std::vector<std::string> problems(const MixerDescriptor& layer, const StrategyUse& use);

// The factory of a model whose layer i is layers[i], for plans of `layout` over the ranks of `sp`.
// Throws Error(kConfig) listing the problems() of every layer. Layers of the same strategy share
// one schedule; what the mixers need lives as long as any of them.
MixerFactory make_mixer_factory(std::vector<MixerDescriptor> layers, const Group& sp,
                                Layout layout);

}  // namespace longship
