// The pattern of a hybrid stack, from text: which mixers each layer has.
//
//   pattern = item { "," item }           "gated_delta, full"
//   item    = [ count "x" ] unit          "3x gated_delta, 1x full"
//   unit    = layer | "(" pattern ")"     "2x (local, global), global"
//   layer   = name { "+" name }           "mamba2 + full": two mixers of one layer
//
// A name is a letter followed by letters, digits, `_` and `-`. Blanks separate. Groups nest.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longship {

struct LayerPattern {
  // The names of the mixers of each layer of one period, as written.
  std::vector<std::vector<std::string>> period;

  const std::vector<std::string>& mixers_of(int64_t layer) const {
    return period[static_cast<size_t>(layer) % period.size()];
  }
};

// Most layers that a model may have; a pattern that counts beyond it is refused before it is laid
// out.
constexpr int64_t kMostLayers = 1 << 16;

// Throws Error(kConfig) that shows where in `text` it goes wrong, or that num_layers is not a
// multiple of the period and which is the nearest one that is.
LayerPattern parse_layer_pattern(std::string_view text, int64_t num_layers);

// Whether `name` can stand in a pattern.
bool is_mixer_name(std::string_view name);

}  // namespace longship
