// How an attention call is given to cuDNN: with which corner its diagonal starts, in how many
// launches, and which of them do without tables of offsets.
#pragma once

#include <optional>
#include <vector>

#include "attention/cuda/attention_call.h"

namespace longship {

// Query i of an entry sees key j iff -left < j - i - shift <= right (the bounds that there are),
// with shift = k_length - q_length where the band is `bottom_right`, and else 0.
struct LaunchBand {
  bool bottom_right = false;
  std::optional<int64_t> left = {}, right = {};

  bool operator==(const LaunchBand&) const = default;
};

struct CallLaunch {
  LaunchBand band;
  std::vector<CallEntry> entries;
  // One entry of whole tiles, for a graph of just these lengths; such graphs are 5% faster, but
  // each length needs one of its own.
  bool dense = false;

  bool operator==(const CallLaunch&) const = default;
};

// The launches do what the call does. Long entries of whole tiles get one each; the others share
// one, or in the backward one for each k_length - q_length: a backward under a band that starts in
// the bottom right corner computes every tile, hidden or not (causal twice the time, a window as
// long as no window), so there the bounds are shifted and start in the top left corner.
std::vector<CallLaunch> forward_launches(const AttentionCall& call);
std::vector<CallLaunch> backward_launches(const AttentionCall& call);
// With one entry each.
std::vector<CallLaunch> separate_backward_launches(const AttentionCall& call);

}  // namespace longship
