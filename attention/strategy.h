// The sequence-parallel strategies that a configuration can name, and what each of them serves. A
// new strategy is one more entry in the table of strategy.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/linear/linear_schedule.h"
#include "parallel/latent_schedule.h"
#include "parallel/softmax_schedule.h"

namespace longship {

// Kinds of mixers, by what must cross ranks: keys and values, latents, or states.
enum class MixerFamily { kSoftmax, kLatent, kLinear };
std::string_view family_name(MixerFamily family);

// How a layer of a job would use a strategy.
struct StrategyUse {
  MixerFamily family = MixerFamily::kSoftmax;
  int num_ranks = 1;  // of the sp axis
  Layout layout = Layout::kContiguous;
  // Of a softmax layer, as in AttentionOptions.
  int64_t window = 0;
  bool causal = true;
  int64_t num_sink_tokens = 0;
  bool sink_logit = false;
  bool anchor = false;
};

// The masks of softmax layers that a strategy serves. All serve documents and the causal mask.
struct MaskSupport {
  bool unlimited = true;  // no window: every earlier token of the document
  bool window = true;
  bool bidirectional = true;
  bool sink_tokens = true;
  bool sink_logit = true;
  bool anchor = true;
};

// How the ranks of the sp axis share the attention of a layer.
struct Strategy {
  std::string_view name;
  std::string_view summary;     // what it does and the paper, in one line
  std::vector<Layout> layouts;  // that it serves, the best one first
  int max_ranks = 0;            // of the sp axis; 0 = any number
  MaskSupport masks = {};
  std::string_view limits = {};  // where it works but not well, in words
  // Schedules for the families that it serves, null for others. A softmax schedule serves latent
  // layers too, once their keys and values are expanded. `kernel` must outlive the schedule.
  std::unique_ptr<SoftmaxSchedule> (*softmax)(const Group& sp,
                                              const SoftmaxBlock& kernel) = nullptr;
  std::unique_ptr<LatentSchedule> (*latent)(const Group& sp, const SoftmaxBlock& kernel) = nullptr;
  std::unique_ptr<LinearSchedule> (*linear)(const Group& sp) = nullptr;

  bool serves(MixerFamily family) const;
  // Why this strategy cannot serve `use`, naming the nearest choices; empty when it can.
  std::string refusal(const StrategyUse& use) const;
};

// The table, in the order in which it is worth printing.
std::span<const Strategy> strategies();

// The strategies that serve `use`.
std::vector<const Strategy*> strategies_for(const StrategyUse& use);

// Throws Error(kConfig) listing the known names.
const Strategy& find_strategy(std::string_view name);

}  // namespace longship
