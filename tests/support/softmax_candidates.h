// Every way to share softmax attention among ranks that tests run side by side.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attention/strategy.h"

namespace longship::testing {

struct SoftmaxCandidate {
  std::string name;
  const Strategy* strategy;  // says what it serves
  std::unique_ptr<SoftmaxSchedule> schedule;
};

// Every strategy of the table, and others of their forms: gather_kv by three heads, ulysses and
// usp of every degree with heads in groups, if there are enough. Collective.
std::vector<SoftmaxCandidate> softmax_candidates(const Group& sp, const SoftmaxBlock& kernel);

// What a call with `options` asks of its strategy.
StrategyUse use_of(const AttentionOptions& options, int num_ranks, Layout layout);

}  // namespace longship::testing
