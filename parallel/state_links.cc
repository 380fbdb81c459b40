#include "parallel/state_links.h"

#include <algorithm>

#include "parallel/cut_segments.h"

namespace longship {

std::vector<StateLink> state_links(const SequencePlan& plan, ScanDirection direction) {
  std::vector<CutSegment> cut = cut_segments(plan);
  if (direction == ScanDirection::kBackward) std::reverse(cut.begin(), cut.end());

  std::vector<StateLink> links;
  int64_t depth = 0;
  for (size_t i = 1; i < cut.size(); ++i) {
    const CutSegment &from = cut[i - 1], &to = cut[i];
    if (from.segment.document != to.segment.document) {
      depth = 0;
      continue;
    }
    links.push_back({from.rank, from.row, to.rank, to.row, depth++});
  }
  return links;
}

}  // namespace longship
