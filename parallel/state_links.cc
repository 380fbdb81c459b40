#include "parallel/state_links.h"

#include <algorithm>

namespace longship {

std::vector<StateLink> state_links(const SequencePlan& plan, ScanDirection direction) {
  struct Held {
    int rank;
    int64_t index;
    const Segment* segment;
  };
  const std::vector<int64_t>& cu_seqlens = plan.cu_seqlens();
  std::vector<Held> held;  // segments that are not a whole document: at most four a rank
  for (int rank = 0; rank < plan.num_ranks(); ++rank) {
    const std::span<const Segment> segments = plan.segments(rank);
    for (size_t i = 0; i < segments.size(); ++i) {
      const auto document = static_cast<size_t>(segments[i].document);
      if (segments[i].length < cu_seqlens[document + 1] - cu_seqlens[document])
        held.push_back({rank, static_cast<int64_t>(i), &segments[i]});
    }
  }
  std::sort(held.begin(), held.end(), [](const Held& a, const Held& b) {
    return a.segment->global_begin < b.segment->global_begin;
  });
  if (direction == ScanDirection::kBackward) std::reverse(held.begin(), held.end());

  std::vector<StateLink> links;
  int64_t depth = 0;
  for (size_t i = 1; i < held.size(); ++i) {
    const Held &from = held[i - 1], &to = held[i];
    if (from.segment->document != to.segment->document) {
      depth = 0;
      continue;
    }
    links.push_back({from.rank, from.index, to.rank, to.index, depth++});
  }
  return links;
}

}  // namespace longship
