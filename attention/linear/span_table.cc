#include "attention/linear/span_table.h"

namespace longship {

SpanTable::SpanTable(const LinearProblem& problem, int num_threads)
    : num_chunks_(problem.grid.num_chunks()),
      heads_at_once_(std::clamp<int64_t>(problem.num_heads, 1, num_threads)),
      length_(std::max(kShortest, 2 * num_threads / heads_at_once_)) {
  const ChunkGrid& grid = problem.grid;
  int64_t num_entered = 0;
  for (int64_t segment = 0, chunk = 0; segment < problem.num_segments(); ++segment) {
    const int64_t first = grid.first_chunk(segment), last = grid.first_chunk(segment + 1);
    while (chunk < last) {
      if (chunk % length_ == 0) {
        first_part_.push_back(parts_.size());
        entered_before_.push_back(num_entered);
        if (chunk > first) ++num_entered;
      }
      const int64_t end = std::min((chunk / length_ + 1) * length_, last);
      parts_.push_back({segment, chunk, end, chunk == first, end == last});
      chunk = end;
    }
  }
  first_part_.push_back(parts_.size());
  entered_before_.push_back(num_entered);
}

}  // namespace longship
