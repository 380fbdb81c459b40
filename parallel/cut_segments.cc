#include "parallel/cut_segments.h"

#include <algorithm>

namespace longship {

std::vector<int64_t> cut_segments(const SequencePlan& plan, int rank) {
  const std::vector<int64_t>& cu_seqlens = plan.cu_seqlens();
  const std::span<const Segment> segments = plan.segments(rank);
  std::vector<int64_t> indices;
  for (size_t i = 0; i < segments.size(); ++i) {
    const auto document = static_cast<size_t>(segments[i].document);
    if (segments[i].length < cu_seqlens[document + 1] - cu_seqlens[document])
      indices.push_back(static_cast<int64_t>(i));
  }
  return indices;
}

std::vector<CutSegment> cut_segments(const SequencePlan& plan) {
  std::vector<CutSegment> cut;
  for (int rank = 0; rank < plan.num_ranks(); ++rank) {
    int64_t row = 0;
    for (const int64_t index : cut_segments(plan, rank))
      cut.push_back({rank, index, row++, plan.segments(rank)[static_cast<size_t>(index)]});
  }
  std::sort(cut.begin(), cut.end(), [](const CutSegment& a, const CutSegment& b) {
    return a.segment.global_begin < b.segment.global_begin;
  });
  return cut;
}

}  // namespace longship
