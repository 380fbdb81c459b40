// Walks along the chunks of every segment and head, shared out so that all threads have work when
// there are fewer heads than threads: the columns of a state never meet, so a walk may be done for
// a range of them at a time. Every range gives the same bits.
#pragma once

#include "attention/linear/linear_problem.h"
#include "attention/linear/panel_matrix.h"
#include "runtime/parallel_for.h"

namespace longship {

// Neighbouring columns of a state: whole panels of them.
struct StateColumns {
  int64_t first = 0;
  int64_t count = 0;
};

struct StateWalk {
  int64_t segment = 0;
  int64_t head = 0;
  StateColumns columns;
};

// Into how many ranges of whole panels the columns of `num_walks` equal walks are cut, so that the
// longest-working thread is done earliest. A range repeats work on keys and gates that all share.
inline int64_t num_column_ranges(int64_t num_walks, int64_t num_panels, int64_t num_threads) {
  constexpr double kRepeated = 0.1;  // of a whole walk
  int64_t best = 1;
  double shortest = 0;
  for (int64_t ranges = 1; ranges <= num_panels; ++ranges) {
    const auto turns = static_cast<double>((num_walks * ranges + num_threads - 1) / num_threads);
    const auto widest = static_cast<double>((num_panels + ranges - 1) / ranges);
    const double time = turns * (widest / static_cast<double>(num_panels) + kRepeated);
    if (ranges == 1 || time < shortest) {
      best = ranges;
      shortest = time;
    }
  }
  return best;
}

// Calls f(walk, columns) in parallel for 0 <= walk < num_walks and ranges that cover the columns.
template <class A, class F>
void for_each_column_range(const Context& ctx, int64_t num_walks, int64_t num_columns, F&& f) {
  constexpr int64_t W = kPanelLanes<A>;
  const int64_t panels = (num_columns + W - 1) / W;
  const int64_t ranges = num_column_ranges(num_walks, panels, ctx.num_threads);
  parallel_for_dynamic(ctx, num_walks * ranges, [&](int64_t index) {
    const int64_t range = index % ranges, first = panels * range / ranges * W,
                  end = std::min(panels * (range + 1) / ranges * W, num_columns);
    f(index / ranges, StateColumns{first, end - first});
  });
}

// Calls f(walk) in parallel for every segment and head, and ranges of the columns.
template <class A, class F>
void for_each_walk(const Context& ctx, const LinearProblem& problem, int64_t num_columns, F&& f) {
  const int64_t H = problem.num_heads;
  for_each_column_range<A>(ctx, H * problem.num_segments(), num_columns,
                           [&](int64_t walk, const StateColumns& columns) {
                             f(StateWalk{walk / H, walk % H, columns});
                           });
}

// Neighbouring cut segments, those of the rows of states.
struct CutRows {
  int64_t first = 0;
  int64_t count = 0;
};

// The same for these segments only: f(row - first, walk).
template <class A, class F>
void for_each_cut_walk(const Context& ctx, const LinearProblem& problem, const CutRows& rows,
                       int64_t num_columns, F&& f) {
  const int64_t H = problem.num_heads;
  for_each_column_range<A>(
      ctx, H * rows.count, num_columns, [&](int64_t walk, const StateColumns& columns) {
        const int64_t row = walk / H, segment = problem.cut[static_cast<size_t>(rows.first + row)];
        f(row, StateWalk{segment, walk % H, columns});
      });
}

}  // namespace longship
