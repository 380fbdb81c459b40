// A model of what a layer costs under each strategy, forward and backward, for `strategy: auto`.
//
//   seconds = compute * imbalance + exposed
//   exposed = max(0, traffic / rate - the computing it can hide under) + latency * steps
//
// Traffic is that of the strategies' own formulas (their headers), for one document over all ranks
// and shards of s tokens; the slowest rank sets the imbalance. What is left out is the same for all
// strategies of a layer: projections, norms, convolutions. Computing is counted in flops at one
// measured rate, which flatters the linear family a little; it matters where strategies differ in
// balance or in what hides.
//
//   strategy                    traffic that can hide, and under what computing
//   ulysses                     none: all-to-all to whole heads and back
//   ulysses, linear layers      all but the first group of heads in and the last one out
//   ring, token_ring, lightseq  all, under the steps but the last
//   gather_kv                   all but the first KV head, under the other heads
//   usp                         its ring as ring, its all-to-all as ulysses
//   halo                        all, under that over own keys
//   gather_latent               none; and every rank expands the latents that it gathers
//   zeco                        the chain of blocks, under a sixth of the computing
//   lasp                        the chain of walks and whole states, under the same
//   lasp2                       its gathering, under the same; composing transitions cannot
#pragma once

#include "attention/registry.h"
#include "parallel/link_rates.h"

namespace longship {

struct MachineRates {
  LinkRates links;
  double flops_per_s = 0;  // of this rank, in attention
};

// What is the same for all layers of a job.
struct JobShape {
  int num_ranks = 1;  // of the sp axis
  Layout layout = Layout::kContiguous;
  int64_t num_tokens = 0;     // of a sequence, over all its ranks
  int64_t element_bytes = 4;  // of activations
};

struct StrategyCost {
  double sent_bytes = 0;  // by a rank
  double compute_s = 0;   // of the slowest rank
  double exposed_s = 0;   // waiting for messages
  double seconds() const { return compute_s + exposed_s; }
};

// Of one mixer under `strategy`, which must serve it; mixer.strategy is not read.
StrategyCost estimate_cost(const Strategy& strategy, const MixerDescriptor& mixer,
                           const JobShape& job, const MachineRates& rates);

struct CostedStrategy {
  const Strategy* strategy = nullptr;
  StrategyCost cost;
};

// Every strategy that serves the mixer, the cheapest first; of equals, the first of the table.
std::vector<CostedStrategy> rank_strategies(const MixerDescriptor& mixer, const JobShape& job,
                                            const MachineRates& rates);

// "ring: 1.21 ms a layer, 0.1 of it waiting for 3.1 MB; then ulysses 1.62 (0.5 for 2.4 MB)": the
// choice with its reason. Not for an empty ranking.
std::string ranking_text(const std::vector<CostedStrategy>& ranking);

// The rate of this rank's softmax kernel on a small block, in flops; takes a few milliseconds.
double measure_attention_rate(Context& ctx);

}  // namespace longship
