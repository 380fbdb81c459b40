// One state per kStride chunks of every segment and head, kept from the forward to the backward
// pass over the chunks; those within are computed again, one product each. What enters a segment is
// not kept twice: segments of few chunks, of which a batch may have thousands, keep nothing.
#pragma once

#include <vector>

#include "attention/linear/segment_state.h"
#include "runtime/context.h"

namespace longship {

template <class A>
class KeptStates {
 public:
  static constexpr int64_t kStride = 8;

  // `problem` outlives this; states_NHKV enter its segments.
  KeptStates(const Context& ctx, const LinearProblem& problem, Tensor states_NHKV)
      : problem_(problem), states_NHKV_(std::move(states_NHKV)) {
    int64_t num_kept = 0;
    for (int64_t n = 0; n < problem.num_segments(); ++n) {
      first_kept_.push_back(num_kept);
      const int64_t chunks = problem.grid.first_chunk(n + 1) - problem.grid.first_chunk(n);
      num_kept += (chunks - 1) / kStride;
    }
    kept_ = ctx.empty({num_kept * problem.num_heads * state_size()}, problem.sums);
  }

  // Working space of for_each_reversed, in numbers.
  static int64_t stride_size(const LinearProblem& problem) {
    return kStride * PanelMatrix<A>::size(problem.key_size, problem.value_size);
  }

  // Keeps the state before `chunk` if one of the kept is due.
  void keep(int64_t segment, int64_t chunk, int64_t head, const PanelMatrix<A>& state) const {
    const int64_t passed = chunk - problem_.grid.first_chunk(segment);
    if (passed > 0 && passed % kStride == 0) kept(segment, chunk, head).copy_from(state);
  }

  // Calls f(chunk, state before it) for the chunks of a segment and head, last to first.
  // advance(chunk, state) turns the state before a chunk into that after it. `workspace` holds
  // stride_size() numbers.
  template <class Advance, class F>
  void for_each_reversed(int64_t segment, int64_t head, A* workspace, Advance&& advance,
                         F&& f) const {
    auto state_at = [&](int64_t i) {
      return PanelMatrix<A>(workspace + i * state_size(), problem_.key_size, problem_.value_size);
    };
    const int64_t first = problem_.grid.first_chunk(segment);
    for (int64_t end = problem_.grid.first_chunk(segment + 1); end > first;) {
      const int64_t begin = first + (end - 1 - first) / kStride * kStride;
      if (begin == first)
        load_state(problem_, states_NHKV_, segment, head, state_at(0));
      else
        state_at(0).copy_from(kept(segment, begin, head));
      for (int64_t c = begin; c + 1 < end; ++c) {
        state_at(c + 1 - begin).copy_from(state_at(c - begin));
        advance(c, state_at(c + 1 - begin));
      }
      for (int64_t c = end - 1; c >= begin; --c) f(c, state_at(c - begin));
      end = begin;
    }
  }

 private:
  int64_t state_size() const {
    return PanelMatrix<A>::size(problem_.key_size, problem_.value_size);
  }
  PanelMatrix<A> kept(int64_t segment, int64_t chunk, int64_t head) const {
    const int64_t index = first_kept_[static_cast<size_t>(segment)] +
                          (chunk - problem_.grid.first_chunk(segment)) / kStride - 1;
    return {kept_.template data<A>() + (index * problem_.num_heads + head) * state_size(),
            problem_.key_size, problem_.value_size};
  }

  const LinearProblem& problem_;
  std::vector<int64_t> first_kept_;  // per segment, among the kept states of a head
  Tensor states_NHKV_, kept_;
};

}  // namespace longship
