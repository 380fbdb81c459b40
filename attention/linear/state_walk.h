// Walks along the chunks of every segment and head, shared out so that all threads have work when
// there are fewer heads than threads: the columns of a state never meet, so a walk may be done for
// a range of them at a time. Every range gives the same bits.
#pragma once

#include "attention/linear/linear_problem.h"
#include "attention/linear/panel_matrix.h"
#include "runtime/parallel_for.h"

namespace longship {

struct StateWalk {
  int64_t segment = 0;
  int64_t head = 0;
  int64_t first_column = 0;  // a multiple of the panels' lanes
  int64_t num_columns = 0;
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

// Which segments are walked along: all, or those that states enter or leave.
enum class Walked { kAll, kCut };

// Calls f(walk) for every head and range of the `num_columns` columns of these segments, in
// parallel.
template <class A, class F>
void for_each_walk(const Context& ctx, const LinearProblem& problem, Walked walked,
                   int64_t num_columns, F&& f) {
  constexpr int64_t W = kPanelLanes<A>;
  const int64_t H = problem.num_heads, panels = (num_columns + W - 1) / W;
  const int64_t num_walks =
      H * (walked == Walked::kCut ? problem.num_cut() : problem.num_segments());
  const int64_t ranges = num_column_ranges(num_walks, panels, ctx.num_threads);
  parallel_for_dynamic(ctx, num_walks * ranges, [&](int64_t index) {
    const int64_t row = index / ranges / H, range = index % ranges;
    const int64_t begin = panels * range / ranges * W,
                  end = std::min(panels * (range + 1) / ranges * W, num_columns);
    f(StateWalk{walked == Walked::kCut ? problem.cut[static_cast<size_t>(row)] : row,
                index / ranges % H, begin, end - begin});
  });
}

}  // namespace longship
