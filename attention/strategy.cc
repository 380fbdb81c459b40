#include "attention/strategy.h"

#include "attention/named_entry.h"

namespace longship {
namespace {

// What of `use` the strategy does not serve, as "serves ..., not ..."; empty when it serves all.
std::string unserved(const Strategy& strategy, const StrategyUse& use) {
  const MaskSupport& masks = strategy.masks;
  if (strategy.max_ranks > 0 && use.num_ranks > strategy.max_ranks)
    return fmt::format("serves at most {} rank(s) of sp, not {}", strategy.max_ranks,
                       use.num_ranks);
  if (std::find(strategy.layouts.begin(), strategy.layouts.end(), use.layout) ==
      strategy.layouts.end())
    return fmt::format("does not serve the layout `{}` (choose `{}`)", layout_name(use.layout),
                       layout_name(strategy.layouts.front()));
  if (use.window == 0 && !masks.unlimited) return "serves only layers with a sliding window";
  if (use.window > 0 && !masks.window) return "does not serve a sliding window";
  if (!use.causal && !masks.bidirectional) return "does not serve bidirectional attention";
  if (use.num_sink_tokens > 0 && !masks.sink_tokens) return "does not serve sink tokens";
  if (use.sink_logit && !masks.sink_logit) return "does not serve a learned sink logit";
  if (use.anchor && !masks.anchor) return "does not serve AnchorAttention";
  return {};
}

}  // namespace

std::span<const Strategy> strategies() {
  static const std::vector<Strategy> table = {
      {.name = "ulysses",
       .summary = "all-to-all from tokens to whole heads and back (arXiv 2309.14509)",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .limits = "ranks beyond the number of query heads compute no attention",
       .make = [](const Group& sp,
                  const SoftmaxBlock& kernel) { return make_ulysses(sp, kernel); }},
      {.name = "ring",
       .summary = "keys and values travel from rank to rank (arXiv 2310.01889)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .limits = "the contiguous layout leaves early ranks idle",
       .make = [](const Group& sp, const SoftmaxBlock& kernel) { return make_ring(sp, kernel); }},
      {.name = "token_ring",
       .summary = "queries travel from rank to rank, partial outputs return (arXiv 2412.20501)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .limits = "the contiguous layout leaves late ranks idle",
       .make = [](const Group& sp,
                  const SoftmaxBlock& kernel) { return make_token_ring(sp, kernel); }},
      {.name = "gather_kv",
       .summary = "all-gather of keys and values, one KV head at a time (arXiv 2407.21783)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .limits = "the contiguous layout leaves early ranks idle",
       .make = [](const Group& sp,
                  const SoftmaxBlock& kernel) { return make_gather_kv(sp, kernel); }},
      {.name = "local",
       .summary = "no communication: one rank holds the whole sequence",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .max_ranks = 1,
       .limits = "",
       .make = [](const Group&, const SoftmaxBlock& kernel) { return make_local(kernel); }},
  };
  return table;
}

std::string Strategy::refusal(const StrategyUse& use) const {
  const std::string reason = unserved(*this, use);
  if (reason.empty()) return {};
  std::vector<std::string_view> others;
  for (const Strategy& other : longship::strategies())
    if (unserved(other, use).empty()) others.push_back(other.name);
  return fmt::format(
      "strategy `{}` {}: {}", name, reason,
      others.empty() ? "no strategy does" : fmt::format("choose {}", fmt::join(others, " or ")));
}

const Strategy& find_strategy(std::string_view name) {
  return find_entry_or_throw(strategies(), name, "sequence-parallel strategy");
}

}  // namespace longship
