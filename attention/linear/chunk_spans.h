// Passes along the chunks of every segment and head, with the states forward and their gradients
// back, one span of neighbouring chunks at a time: first a walk along the span, shared out by
// (segment, head, columns of the state), then the work of each chunk with the state at hand, shared
// out by (chunk, head). So one head alone keeps all threads busy, and only a span's states are in
// memory. The states that enter spans are kept from the forward to the backward pass, where those
// within are computed again. Heads go through in groups, so that the states of a span stay in
// cache.
#pragma once

#include <vector>

#include "attention/linear/segment_state.h"
#include "attention/linear/state_walk.h"
#include "attention/thread_scratch.h"

namespace longship {

template <class A>
class ChunkSpans {
 public:
  using Matrix = PanelMatrix<A>;

  // `problem` outlives this; states_NHKV enter its segments. With `keeps_states` the backward pass
  // has the states as well.
  ChunkSpans(const Context& ctx, const LinearProblem& problem, Tensor states_NHKV,
             bool keeps_states);

  // From the first chunk to the last. advance(chunk, head, columns, state) turns the state before a
  // chunk into that after it, in these columns; visit(chunk, head, state) gets all columns of the
  // state before the chunk.
  template <class Advance, class Visit>
  void forward(const Context& ctx, Advance&& advance, Visit&& visit) const;

  // From the last chunk to the first, after forward(). retreat(chunk, head, columns, dstate) turns
  // the gradient of the state after a chunk into that of the state before it; visit(chunk, head,
  // state before or null, dstate after).
  template <class Advance, class Retreat, class Visit>
  void backward(const Context& ctx, const Tensor& grad_states_NHKV, Advance&& advance,
                Retreat&& retreat, Visit&& visit) const;

  // Rows [c, V] of a chunk, which last from its retreat to its visit.
  Matrix rows(int64_t chunk, int64_t head) const {
    return {rows_.template data<A>() + slot(chunk, head) * rows_size(),
            problem_.grid.chunk(chunk).length, problem_.value_size};
  }

 private:
  static constexpr int64_t kShortestSpan = 8;

  // The chunks [begin, end) of a segment within a span.
  struct Part {
    int64_t segment, begin, end;
  };

  int64_t num_spans() const { return static_cast<int64_t>(first_part_.size()) - 1; }
  int64_t state_size() const { return Matrix::size(problem_.key_size, problem_.value_size); }
  int64_t rows_size() const { return Matrix::size(LinearProblem::kChunkSize, problem_.value_size); }
  int64_t slot(int64_t chunk, int64_t head) const {
    return chunk % span_length_ * heads_at_once_ + head % heads_at_once_;
  }
  Matrix state_in(const Tensor& buffer, int64_t index) const {
    return {buffer.template data<A>() + index * state_size(), problem_.key_size,
            problem_.value_size};
  }
  // Where the state that enters a span is.
  Matrix entering(int64_t span, int64_t head) const {
    return state_in(entering_,
                    entering_row_[static_cast<size_t>(span)] * problem_.num_heads + head);
  }
  bool starts(const Part& part) const {
    return part.begin == problem_.grid.first_chunk(part.segment);
  }
  bool ends(const Part& part) const {
    return part.end == problem_.grid.first_chunk(part.segment + 1);
  }
  // Calls f(part, walk) in parallel for the parts of a span and the heads from `first_head`.
  template <class F>
  void for_each_part(const Context& ctx, int64_t span, int64_t first_head, F&& f) const;
  // Calls f(chunk, head) in parallel.
  template <class F>
  void for_each_chunk(const Context& ctx, int64_t span, int64_t first_head, F&& f) const;

  const LinearProblem& problem_;
  Tensor states_NHKV_;
  bool keeps_states_;
  int64_t heads_at_once_, span_length_;
  std::vector<Part> parts_;
  std::vector<size_t> first_part_;     // of each span
  std::vector<int64_t> entering_row_;  // of each span
  Tensor entering_, rows_;
};

template <class A>
ChunkSpans<A>::ChunkSpans(const Context& ctx, const LinearProblem& problem, Tensor states_NHKV,
                          bool keeps_states)
    : problem_(problem), states_NHKV_(std::move(states_NHKV)), keeps_states_(keeps_states) {
  heads_at_once_ = std::min<int64_t>(problem.num_heads, ctx.num_threads);
  span_length_ = std::max(kShortestSpan, 2 * ctx.num_threads / heads_at_once_);
  const ChunkGrid& grid = problem.grid;
  for (int64_t segment = 0, chunk = 0; segment < problem.num_segments(); ++segment) {
    while (chunk < grid.first_chunk(segment + 1)) {
      if (chunk % span_length_ == 0) first_part_.push_back(parts_.size());
      const int64_t end =
          std::min((chunk / span_length_ + 1) * span_length_, grid.first_chunk(segment + 1));
      parts_.push_back({segment, chunk, end});
      chunk = end;
    }
  }
  first_part_.push_back(parts_.size());
  // Segments that start with a span, of which a batch may have thousands, need no memory here; and
  // two rows take turns where the backward pass does not need them all.
  int64_t num_rows = 0;
  for (int64_t span = 0; span < num_spans(); ++span) {
    const bool is_entered = !starts(parts_[first_part_[static_cast<size_t>(span)]]);
    entering_row_.push_back(keeps_states || !is_entered ? num_rows : num_rows % 2);
    if (is_entered) ++num_rows;
  }
  if (!keeps_states) num_rows = std::min<int64_t>(num_rows, 2);
  entering_ = ctx.empty({num_rows * problem.num_heads * state_size()}, problem.sums);
  rows_ = ctx.empty({span_length_ * heads_at_once_ * rows_size()}, problem.sums);
}

template <class A>
template <class F>
void ChunkSpans<A>::for_each_part(const Context& ctx, int64_t span, int64_t first_head,
                                  F&& f) const {
  const size_t first = first_part_[static_cast<size_t>(span)];
  const int64_t num_heads = std::min(heads_at_once_, problem_.num_heads - first_head);
  const auto num_parts = static_cast<int64_t>(first_part_[static_cast<size_t>(span) + 1] - first);
  for_each_column_range<A>(ctx, num_parts * num_heads, problem_.value_size,
                           [&](int64_t walk, const StateColumns& columns) {
                             f(parts_[first + static_cast<size_t>(walk / num_heads)],
                               first_head + walk % num_heads, columns);
                           });
}

template <class A>
template <class F>
void ChunkSpans<A>::for_each_chunk(const Context& ctx, int64_t span, int64_t first_head,
                                   F&& f) const {
  const int64_t begin = span * span_length_,
                end = std::min(begin + span_length_, problem_.grid.num_chunks());
  const int64_t num_heads = std::min(heads_at_once_, problem_.num_heads - first_head);
  parallel_for_dynamic(ctx, (end - begin) * num_heads, [&](int64_t index) {
    f(begin + index / num_heads, first_head + index % num_heads);
  });
}

template <class A>
template <class Advance, class Visit>
void ChunkSpans<A>::forward(const Context& ctx, Advance&& advance, Visit&& visit) const {
  const Tensor states = ctx.empty({span_length_ * heads_at_once_ * state_size()}, problem_.sums);
  const ThreadScratch<A> scratch(ctx, {state_size()});
  for (int64_t first_head = 0; first_head < problem_.num_heads; first_head += heads_at_once_)
    for (int64_t span = 0; span < num_spans(); ++span) {
      for_each_part(
          ctx, span, first_head, [&](const Part& part, int64_t head, const StateColumns& columns) {
            auto of = [&](const Matrix& x) { return x.column_range(columns.first, columns.count); };
            const Matrix state(scratch.part(0), problem_.key_size, columns.count);
            if (starts(part))
              load_state(problem_, states_NHKV_, part.segment, head, state, columns.first);
            else
              state.copy_from(of(entering(span, head)));
            for (int64_t c = part.begin; c < part.end; ++c) {
              of(state_in(states, slot(c, head))).copy_from(state);
              advance(c, head, columns, state);
            }
            if (!ends(part)) of(entering(span + 1, head)).copy_from(state);
          });
      for_each_chunk(ctx, span, first_head, [&](int64_t c, int64_t head) {
        visit(c, head, state_in(states, slot(c, head)));
      });
    }
}

template <class A>
template <class Advance, class Retreat, class Visit>
void ChunkSpans<A>::backward(const Context& ctx, const Tensor& grad_states_NHKV, Advance&& advance,
                             Retreat&& retreat, Visit&& visit) const {
  const int64_t slots = span_length_ * heads_at_once_, H = problem_.num_heads;
  const Tensor states = ctx.empty({keeps_states_ ? slots * state_size() : 0}, problem_.sums),
               dstates = ctx.empty({slots * state_size()}, problem_.sums),
               leaving = ctx.empty({2 * H * state_size()}, problem_.sums);
  const ThreadScratch<A> scratch(ctx, {state_size()});
  for (int64_t first_head = 0; first_head < H; first_head += heads_at_once_)
    for (int64_t span = num_spans() - 1; span >= 0; --span) {
      for_each_part(
          ctx, span, first_head, [&](const Part& part, int64_t head, const StateColumns& columns) {
            auto of = [&](const Matrix& x) { return x.column_range(columns.first, columns.count); };
            const Matrix state(scratch.part(0), problem_.key_size, columns.count);
            if (keeps_states_) {
              if (starts(part))
                load_state(problem_, states_NHKV_, part.segment, head, state, columns.first);
              else
                state.copy_from(of(entering(span, head)));
              for (int64_t c = part.begin; c < part.end; ++c) {
                of(state_in(states, slot(c, head))).copy_from(state);
                if (c + 1 < part.end) advance(c, head, columns, state);
              }
            }
            const Matrix& dstate = state;
            if (ends(part))
              load_state(problem_, grad_states_NHKV, part.segment, head, dstate, columns.first);
            else
              dstate.copy_from(of(state_in(leaving, span % 2 * H + head)));
            for (int64_t c = part.end - 1; c >= part.begin; --c) {
              of(state_in(dstates, slot(c, head))).copy_from(dstate);
              retreat(c, head, columns, dstate);
            }
            if (!starts(part)) of(state_in(leaving, (span + 1) % 2 * H + head)).copy_from(dstate);
          });
      for_each_chunk(ctx, span, first_head, [&](int64_t c, int64_t head) {
        const Matrix state = state_in(keeps_states_ ? states : dstates, slot(c, head));
        visit(c, head, keeps_states_ ? &state : nullptr, state_in(dstates, slot(c, head)));
      });
    }
}

}  // namespace longship
