#include "attention/strategy_table.h"

#include "attention/registry.h"

namespace longship {
namespace {

struct MaskColumn {
  std::string_view name;
  StrategyUse use;
};

// What a layer asks for beside documents.
constexpr MaskColumn kMasks[] = {{"causal", {}},
                                 {"window", {.window = 1}},
                                 {"bidirectional", {.causal = false}},
                                 {"sink tokens", {.window = 1, .num_sink_tokens = 1}},
                                 {"sink logit", {.sink_logit = true}},
                                 {"anchor", {.anchor = true}}};

// All but the first are asked for inside a window where the strategy serves nothing else.
std::string_view mark(const Strategy& strategy, const MaskColumn& mask) {
  StrategyUse use = mask.use;
  use.layout = strategy.layouts.front();
  if (!strategy.masks.unlimited && &mask != &kMasks[0]) use.window = 1;
  return strategy.refusal(use).empty() ? "yes" : "-";
}

std::string layouts_text(const Strategy& strategy) {
  std::vector<std::string_view> names;
  for (Layout layout : strategy.layouts) names.push_back(layout_name(layout));
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::string strategy_table() {
  std::string text = "backend        family   strategies\n";
  for (const MixerBackend& backend : mixer_backends()) {
    std::vector<std::string_view> names;
    for (const Strategy& strategy : strategies())
      if (strategy.serves(backend.family)) names.push_back(strategy.name);
    text += fmt::format("{:<14} {:<8} {}\n               {}\n", backend.name,
                        family_name(backend.family), fmt::join(names, ", "), backend.summary);
  }
  text += "\nstrategy       ranks  layouts (the best one first)\n";
  for (const Strategy& strategy : strategies()) {
    text += fmt::format("{:<14} {:<6} {}\n               {}\n", strategy.name,
                        strategy.max_ranks == 0 ? "any" : std::to_string(strategy.max_ranks),
                        layouts_text(strategy), strategy.summary);
    if (!strategy.limits.empty()) text += fmt::format("               {}\n", strategy.limits);
  }
  text += "\nmasks of softmax layers, all within documents\n              ";
  for (const MaskColumn& mask : kMasks) text += fmt::format(" {:>13}", mask.name);
  for (const Strategy& strategy : strategies()) {
    if (!strategy.serves(MixerFamily::kSoftmax)) continue;
    text += fmt::format("\n{:<14}", strategy.name);
    for (const MaskColumn& mask : kMasks) text += fmt::format(" {:>13}", mark(strategy, mask));
  }
  return text +
         "\n\nA layer that asks for what its strategy does not serve is refused before the "
         "run starts.";
}

}  // namespace longship
