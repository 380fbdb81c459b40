#include "attention/strategy.h"

#include "attention/named_entry.h"
#include "parallel/state_schedule.h"

namespace longship {
namespace {

// What of `use` the strategy does not serve, in words; empty when it serves all.
std::string unserved(const Strategy& strategy, const StrategyUse& use) {
  const MaskSupport& masks = strategy.masks;
  if (!strategy.serves(use.family))
    return fmt::format("does not serve {} layers", family_name(use.family));
  if (strategy.max_ranks > 0 && use.num_ranks > strategy.max_ranks)
    return fmt::format("serves at most {} rank{} of sp, not {}", strategy.max_ranks,
                       strategy.max_ranks == 1 ? "" : "s", use.num_ranks);
  if (std::find(strategy.layouts.begin(), strategy.layouts.end(), use.layout) ==
      strategy.layouts.end())
    return fmt::format("does not serve the layout `{}`, only `{}`", layout_name(use.layout),
                       layout_name(strategy.layouts.front()));
  if (use.family != MixerFamily::kSoftmax) return {};
  if (use.window == 0 && !masks.unlimited) return "serves only layers with a sliding window";
  if (use.window > 0 && !masks.window) return "does not serve a sliding window";
  if (!use.causal && !masks.bidirectional) return "does not serve bidirectional attention";
  if (use.num_sink_tokens > 0 && !masks.sink_tokens) return "does not serve sink tokens";
  if (use.sink_logit && !masks.sink_logit) return "does not serve a learned sink logit";
  if (use.anchor && !masks.anchor) return "does not serve AnchorAttention";
  return {};
}

}  // namespace

std::string_view family_name(MixerFamily family) {
  switch (family) {
    case MixerFamily::kSoftmax:
      return "softmax";
    case MixerFamily::kLatent:
      return "latent";
    case MixerFamily::kLinear:
      return "linear";
  }
  LONGSHIP_CHECK(false, "family {}", static_cast<int>(family));
}

std::span<const Strategy> strategies() {
  static const std::vector<Strategy> table = {
      {.name = "ulysses",
       .summary = "all-to-all from tokens to whole heads and back (arXiv 2309.14509)",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .limits = "ranks beyond the number of heads compute no attention",
       .softmax = [](const Group& sp,
                     const SoftmaxBlock& kernel) { return make_ulysses(sp, kernel); },
       .linear = [](const Group& sp) { return make_linear_ulysses(sp); }},
      {.name = "ring",
       .summary = "keys and values travel from rank to rank (arXiv 2310.01889)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .limits = "the contiguous layout leaves early ranks idle",
       .softmax = [](const Group& sp,
                     const SoftmaxBlock& kernel) { return make_ring(sp, kernel); }},
      {.name = "token_ring",
       .summary = "queries travel from rank to rank, partial outputs return (arXiv 2412.20501)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .limits = "the contiguous layout leaves late ranks idle",
       .softmax = [](const Group& sp,
                     const SoftmaxBlock& kernel) { return make_token_ring(sp, kernel); }},
      {.name = "gather_kv",
       .summary = "all-gather of keys and values, one KV head at a time (arXiv 2407.21783)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .limits = "the contiguous layout leaves early ranks idle",
       .softmax = [](const Group& sp,
                     const SoftmaxBlock& kernel) { return make_gather_kv(sp, kernel); }},
      {.name = "usp",
       .summary = "ulysses among neighbours, ring between these groups (arXiv 2405.07719)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .limits = "the contiguous layout leaves early groups idle; prime numbers of ranks are all "
                 "ulysses or all ring",
       .softmax = [](const Group& sp, const SoftmaxBlock& kernel) { return make_usp(sp, kernel); }},
      {.name = "lightseq",
       .summary = "early ranks compute queries of late ones, half the steps (arXiv 2310.03294)",
       .layouts = {Layout::kContiguous},
       .masks = {.bidirectional = false},
       .limits = "documents much shorter than the batch leave it little to balance",
       .softmax = [](const Group& sp,
                     const SoftmaxBlock& kernel) { return make_lightseq(sp, kernel); }},
      {.name = "halo",
       .summary = "fetches the keys that a sliding window reaches on other ranks, and no others",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .masks = {.unlimited = false},
       .softmax = [](const Group& sp,
                     const SoftmaxBlock& kernel) { return make_halo(sp, kernel); }},
      {.name = "gather_latent",
       .summary = "all-gather of the compressed latents of all heads (arXiv 2405.04434)",
       .layouts = {Layout::kZigzag, Layout::kContiguous},
       .limits = "the contiguous layout leaves early ranks idle",
       .latent = [](const Group& sp,
                    const SoftmaxBlock& kernel) { return make_gather_latent(sp, kernel); }},
      {.name = "zeco",
       .summary = "All-Scan: states go from rank to rank in column blocks (arXiv 2507.01004)",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .limits = "zigzag sends two states a layer and scans twice as many hops; rounds as lasp2",
       .linear = [](const Group& sp) { return make_linear_carry(make_zeco(sp)); }},
      {.name = "lasp",
       .summary = "states walk from rank to rank through the tokens (arXiv 2404.02882); the bits "
                  "of one rank on its chunk grid",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .limits = "every rank waits for the walks of the ranks before it",
       .linear = [](const Group& sp) { return make_linear_carry(make_lasp(sp)); }},
      {.name = "lasp2",
       .summary = "one all-gather of states and their transitions (arXiv 2502.07563)",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .limits = "traffic grows with the ranks; the delta rule ships K x K transitions too; the "
                 "bits of one rank for documents cut once, else near",
       .linear = [](const Group& sp) { return make_linear_carry(make_lasp2(sp)); }},
      {.name = "local",
       .summary = "no communication: one rank holds the whole sequence",
       .layouts = {Layout::kContiguous, Layout::kZigzag},
       .max_ranks = 1,
       .softmax = [](const Group&, const SoftmaxBlock& kernel) { return make_local(kernel); },
       .linear = [](const Group&) { return make_linear_carry(make_local_states()); }},
  };
  return table;
}

bool Strategy::serves(MixerFamily family) const {
  switch (family) {
    case MixerFamily::kSoftmax:
      return softmax != nullptr;
    case MixerFamily::kLatent:
      return latent != nullptr || (softmax != nullptr && masks.unlimited);
    case MixerFamily::kLinear:
      return linear != nullptr;
  }
  return false;
}

std::vector<const Strategy*> strategies_for(const StrategyUse& use) {
  std::vector<const Strategy*> found;
  for (const Strategy& strategy : strategies())
    if (unserved(strategy, use).empty()) found.push_back(&strategy);
  return found;
}

std::string Strategy::refusal(const StrategyUse& use) const {
  const std::string reason = unserved(*this, use);
  if (reason.empty()) return {};
  // A choice that changes the layout alone comes first, as it keeps the strategy.
  std::vector<std::string> choices;
  for (Layout layout : layouts) {
    StrategyUse other = use;
    other.layout = layout;
    if (unserved(*this, other).empty())
      choices.push_back(fmt::format("the layout `{}`", layout_name(layout)));
  }
  for (const Strategy* other : strategies_for(use)) choices.emplace_back(other->name);
  return fmt::format("strategy `{}` {}: choose {}", name, reason,
                     choices.empty() ? "another mask, as no strategy serves this one"
                                     : fmt::format("{}", fmt::join(choices, " or ")));
}

const Strategy& find_strategy(std::string_view name) {
  return find_entry_or_throw(strategies(), name, "sequence-parallel strategy");
}

}  // namespace longship
