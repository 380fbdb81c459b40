// How the passes over chunks are cut into spans: neighbouring chunks of the grid, whatever segments
// they belong to, and a group of heads.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "attention/linear/linear_problem.h"

namespace longship {

// The chunks [begin, end) of a segment within a span.
struct SpanPart {
  int64_t segment = 0, begin = 0, end = 0;
  bool is_first = false, is_last = false;  // of the segment's parts
};

class SpanTable {
 public:
  // Long enough that `num_threads` have work in each span, which changes no result.
  SpanTable(const LinearProblem& problem, int num_threads);

  int64_t num_spans() const { return static_cast<int64_t>(entered_before_.size()) - 1; }
  int64_t first_chunk(int64_t span) const { return span * length_; }
  int64_t end_chunk(int64_t span) const { return std::min((span + 1) * length_, num_chunks_); }
  std::span<const SpanPart> parts(int64_t span) const {
    const size_t i = static_cast<size_t>(span);
    return {parts_.data() + first_part_[i], first_part_[i + 1] - first_part_[i]};
  }

  // Heads that go through the spans together.
  int64_t heads_at_once() const { return heads_at_once_; }
  // Chunks and heads of a span have slots of their own, below num_slots().
  int64_t num_slots() const { return length_ * heads_at_once_; }
  int64_t slot(int64_t chunk, int64_t head) const {
    return chunk % length_ * heads_at_once_ + head % heads_at_once_;
  }

  // Spans before this one that start within a segment, which a state enters.
  int64_t entered_before(int64_t span) const { return entered_before_[static_cast<size_t>(span)]; }
  int64_t num_entered() const { return entered_before_.back(); }

 private:
  static constexpr int64_t kShortest = 8;

  int64_t num_chunks_, heads_at_once_, length_;
  std::vector<SpanPart> parts_;
  std::vector<size_t> first_part_;       // by span
  std::vector<int64_t> entered_before_;  // by span
};

}  // namespace longship
