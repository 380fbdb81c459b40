// The layers of a model, read from the `model` and `parallel` sections of a configuration.
#pragma once

#include <string>
#include <vector>

#include "attention/registry.h"
#include "launch/config.pb.h"

namespace longship {

// The strategy that leaves the choice to the program, see launch/auto_strategy.h.
constexpr const char* kAutoStrategy = "auto";

// A kind of mixer that layers are made of: one of model.mixer, or model.attention, which all layers
// then have.
struct ConfiguredMixer {
  std::string name;            // "full"
  std::string block;           // "model.mixer.full.attention"
  std::string strategy_field;  // where its strategy stands: "parallel.strategy"
  // With `strategy` that of the field, maybe kAutoStrategy; as of layer 0.
  MixerDescriptor descriptor;
  bool norm_after = false;  // of their norms, see DecoderBlock
  int64_t num_layers = 0;   // that have it
};

struct ConfiguredLayers {
  std::vector<ConfiguredMixer> mixers;
  // The mixers of each layer of one period, as indices.
  std::vector<std::vector<size_t>> period;

  const std::vector<size_t>& mixers_of(int64_t layer) const {
    return period[static_cast<size_t>(layer) % period.size()];
  }
};

// What the configuration says; adds a line to `problems` for everything that no model can be built
// from, naming the field. With new problems, the result is only good for finding more.
ConfiguredLayers read_layers(const config::Run& run, std::vector<std::string>& problems);

// The same for a model that is known to be without problems.
ConfiguredLayers good_layers(const config::Run& run);

// What of it `num_sp` ranks cannot share, one line each; and defaults that no strategy has the name
// of, though no layer may follow them.
std::vector<std::string> strategy_problems(const ConfiguredLayers& layers, const config::Run& run,
                                           int num_sp);

// Writes out what blocks leave to their backend or to other fields. For a model without problems.
void resolve_layers(config::Run& run);

// One descriptor per layer, for a model without problems in which no strategy is kAutoStrategy.
std::vector<LayerDescriptor> layer_descriptors(const config::Run& run);

// TransformerShape::norm_after of a model without problems.
std::vector<bool> norm_after_of(const config::Run& run);

Layout layout_of(const config::Run& run);

}  // namespace longship
