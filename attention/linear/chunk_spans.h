// Passes along the chunks of every segment and head, with the states forward and their gradients
// back, one span of neighbouring chunks at a time: first a walk along the span, shared out by
// (segment, head, columns of the state), then the work of each chunk with the state at hand, shared
// out by (chunk, head). So one head alone keeps all threads busy, and only a span's states are in
// memory. The states that enter spans are kept from the forward to the backward pass, where those
// within are computed again. Heads go through in groups, so that the states of a span stay in
// cache.
#pragma once

#include "attention/linear/segment_state.h"
#include "attention/linear/span_table.h"
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
  int64_t state_size() const { return Matrix::size(problem_.key_size, problem_.value_size); }
  int64_t rows_size() const { return Matrix::size(LinearProblem::kChunkSize, problem_.value_size); }
  int64_t slot(int64_t chunk, int64_t head) const { return table_.slot(chunk, head); }
  Matrix state_in(const Tensor& buffer, int64_t index) const {
    return {buffer.template data<A>() + index * state_size(), problem_.key_size,
            problem_.value_size};
  }
  // Where the state that enters a span is. Two rows take turns where the backward pass does not
  // need them all.
  Matrix entering(int64_t span, int64_t head) const {
    const int64_t row = table_.entered_before(span);
    return state_in(entering_, (keeps_states_ ? row : row % 2) * problem_.num_heads + head);
  }
  // The state in which a part begins: these columns of it.
  void load_entering(const SpanPart& part, int64_t span, int64_t head, const StateColumns& columns,
                     const Matrix& state) const {
    if (part.is_first)
      load_state(problem_, states_NHKV_, part.segment, head, state, columns.first);
    else
      state.copy_from(entering(span, head).column_range(columns.first, columns.count));
  }
  // Calls f(part, head, columns) in parallel for the parts of a span and heads from `first_head`.
  template <class F>
  void for_each_part(const Context& ctx, int64_t span, int64_t first_head, F&& f) const {
    const std::span<const SpanPart> parts = table_.parts(span);
    const int64_t num_heads = std::min(table_.heads_at_once(), problem_.num_heads - first_head);
    for_each_column_range<A>(ctx, static_cast<int64_t>(parts.size()) * num_heads,
                             problem_.value_size, [&](int64_t walk, const StateColumns& columns) {
                               f(parts[static_cast<size_t>(walk / num_heads)],
                                 first_head + walk % num_heads, columns);
                             });
  }
  // Calls f(chunk, head) in parallel.
  template <class F>
  void for_each_chunk(const Context& ctx, int64_t span, int64_t first_head, F&& f) const {
    const int64_t begin = table_.first_chunk(span), count = table_.end_chunk(span) - begin;
    const int64_t num_heads = std::min(table_.heads_at_once(), problem_.num_heads - first_head);
    parallel_for_dynamic(ctx, count * num_heads, [&](int64_t index) {
      f(begin + index / num_heads, first_head + index % num_heads);
    });
  }

  const LinearProblem& problem_;
  Tensor states_NHKV_;
  bool keeps_states_;
  SpanTable table_;
  Tensor entering_, rows_;
};

template <class A>
ChunkSpans<A>::ChunkSpans(const Context& ctx, const LinearProblem& problem, Tensor states_NHKV,
                          bool keeps_states)
    : problem_(problem),
      states_NHKV_(std::move(states_NHKV)),
      keeps_states_(keeps_states),
      table_(problem, ctx.num_threads) {
  const int64_t rows =
      keeps_states ? table_.num_entered() : std::min<int64_t>(table_.num_entered(), 2);
  entering_ = ctx.empty({rows * problem.num_heads * state_size()}, problem.sums);
  rows_ = ctx.empty({table_.num_slots() * rows_size()}, problem.sums);
}

template <class A>
template <class Advance, class Visit>
void ChunkSpans<A>::forward(const Context& ctx, Advance&& advance, Visit&& visit) const {
  const Tensor states = ctx.empty({table_.num_slots() * state_size()}, problem_.sums);
  const ThreadScratch<A> scratch(ctx, {state_size()});
  for (int64_t first_head = 0; first_head < problem_.num_heads;
       first_head += table_.heads_at_once())
    for (int64_t span = 0; span < table_.num_spans(); ++span) {
      for_each_part(ctx, span, first_head,
                    [&](const SpanPart& part, int64_t head, const StateColumns& columns) {
                      auto of = [&](const Matrix& x) {
                        return x.column_range(columns.first, columns.count);
                      };
                      const Matrix state(scratch.part(0), problem_.key_size, columns.count);
                      load_entering(part, span, head, columns, state);
                      for (int64_t c = part.begin; c < part.end; ++c) {
                        of(state_in(states, slot(c, head))).copy_from(state);
                        advance(c, head, columns, state);
                      }
                      if (!part.is_last) of(entering(span + 1, head)).copy_from(state);
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
  const int64_t slots = table_.num_slots(), H = problem_.num_heads;
  const Tensor states = ctx.empty({keeps_states_ ? slots * state_size() : 0}, problem_.sums),
               dstates = ctx.empty({slots * state_size()}, problem_.sums),
               leaving = ctx.empty({2 * H * state_size()}, problem_.sums);
  const ThreadScratch<A> scratch(ctx, {state_size()});
  for (int64_t first_head = 0; first_head < H; first_head += table_.heads_at_once())
    for (int64_t span = table_.num_spans() - 1; span >= 0; --span) {
      for_each_part(
          ctx, span, first_head,
          [&](const SpanPart& part, int64_t head, const StateColumns& columns) {
            auto of = [&](const Matrix& x) { return x.column_range(columns.first, columns.count); };
            const Matrix state(scratch.part(0), problem_.key_size, columns.count);
            if (keeps_states_) {
              load_entering(part, span, head, columns, state);
              for (int64_t c = part.begin; c < part.end; ++c) {
                of(state_in(states, slot(c, head))).copy_from(state);
                if (c + 1 < part.end) advance(c, head, columns, state);
              }
            }
            const Matrix& dstate = state;
            if (part.is_last)
              load_state(problem_, grad_states_NHKV, part.segment, head, dstate, columns.first);
            else
              dstate.copy_from(of(state_in(leaving, span % 2 * H + head)));
            for (int64_t c = part.end - 1; c >= part.begin; --c) {
              of(state_in(dstates, slot(c, head))).copy_from(dstate);
              retreat(c, head, columns, dstate);
            }
            if (!part.is_first) of(state_in(leaving, (span + 1) % 2 * H + head)).copy_from(dstate);
          });
      for_each_chunk(ctx, span, first_head, [&](int64_t c, int64_t head) {
        const Matrix state = state_in(keeps_states_ ? states : dstates, slot(c, head));
        visit(c, head, keeps_states_ ? &state : nullptr, state_in(dstates, slot(c, head)));
      });
    }
}

}  // namespace longship
