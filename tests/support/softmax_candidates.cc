#include "tests/support/softmax_candidates.h"

namespace longship::testing {

std::vector<SoftmaxCandidate> softmax_candidates(const Group& sp, const SoftmaxBlock& kernel) {
  std::vector<SoftmaxCandidate> all;
  for (const Strategy& strategy : strategies())
    if (strategy.serves(MixerFamily::kSoftmax))
      all.push_back({std::string(strategy.name), &strategy, strategy.softmax(sp, kernel)});
  all.push_back(
      {"gather_kv by three heads", &find_strategy("gather_kv"), make_gather_kv(sp, kernel, 3)});
  all.push_back({"ulysses in three groups", &find_strategy("ulysses"),
                 make_ulysses(sp, kernel, {.max_head_groups = 3})});
  for (int degree = 1; degree <= sp.size(); ++degree)
    if (sp.size() % degree == 0)
      all.push_back({fmt::format("usp of degree {}", degree), &find_strategy("usp"),
                     make_usp(sp, kernel, {.ulysses_degree = degree, .max_head_groups = 2})});
  return all;
}

StrategyUse use_of(const AttentionOptions& options, int num_ranks, Layout layout) {
  return {.family = MixerFamily::kSoftmax,
          .num_ranks = num_ranks,
          .layout = layout,
          .window = options.window,
          .causal = options.causal,
          .num_sink_tokens = options.num_sink_tokens,
          .sink_logit = options.sink_logit_H.defined(),
          .anchor = options.anchor};
}

}  // namespace longship::testing
