// The sequence-parallel strategies that a configuration can name, and what each of them serves. A
// new strategy is one more entry in the table of strategy.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/group.h"
#include "parallel/sequence_plan.h"
#include "parallel/softmax_schedule.h"

namespace longship {

// How a softmax layer of a job would use a strategy.
struct StrategyUse {
  int num_ranks = 1;  // of the sp axis
  Layout layout = Layout::kContiguous;
  int64_t num_heads = 0;  // query heads; 0 = not known yet
  int64_t num_kv_heads = 0;
  int64_t window = 0;           // keys a query sees, itself included; 0 = all
  bool causal = true;           // false: both directions within a document
  int64_t num_sink_tokens = 0;  // first tokens of a document that stay visible beyond the window
  bool sink_logit = false;      // a learned logit per head in the softmax's denominator
  bool anchor = false;          // the batch's first token is visible to every document
};

// The masks that a softmax strategy serves. Documents and the causal mask: all strategies do.
struct MaskSupport {
  bool unlimited = true;  // no window: every earlier token of the document
  bool window = true;
  bool bidirectional = false;
  bool sink_tokens = false;
  bool sink_logit = false;
  bool anchor = false;
};

// How the ranks of the sp axis share the attention of a layer.
struct Strategy {
  std::string_view name;
  std::string_view summary;     // what it does and the paper, in one line
  std::vector<Layout> layouts;  // that it serves, the best one first
  int max_ranks = 0;            // of the sp axis; 0 = any number
  MaskSupport masks = {};
  std::string_view limits;  // where it works but not well, in words; may be empty
  std::unique_ptr<SoftmaxSchedule> (*make)(const Group& sp, const SoftmaxBlock& kernel) = nullptr;

  // Why this strategy cannot serve `use`, naming the strategies that can; empty when it can.
  std::string refusal(const StrategyUse& use) const;
};

// The table, in the order in which it is worth printing.
std::span<const Strategy> strategies();

// Throws Error(kConfig) listing the known names.
const Strategy& find_strategy(std::string_view name);

}  // namespace longship
