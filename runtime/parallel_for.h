// Splits [0, count) into contiguous ranges over the threads of a Context. The split never changes
// what one index computes, so results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>

#include "runtime/context.h"

namespace longship {

// Calls f(begin, end) on disjoint ranges that cover [0, count), each of at least `grain` indices
// unless there are fewer in all. An exception thrown by f is rethrown here.
template <class F>
void parallel_for(const Context& ctx, int64_t count, int64_t grain, F&& f) {
  if (count <= 0) return;
  const int64_t num_ranges = std::min<int64_t>(ctx.num_threads, count / grain);
  if (num_ranges <= 1) {
    f(int64_t{0}, count);
    return;
  }
  std::exception_ptr error;
  // Always the whole team, though some may idle: OpenMP starts threads anew when a team grows.
#pragma omp parallel for num_threads(ctx.num_threads) schedule(static, 1)
  for (int64_t range = 0; range < num_ranges; ++range) {
    try {
      f(count * range / num_ranges, count * (range + 1) / num_ranges);
    } catch (...) {
#pragma omp critical(longship_parallel_for)
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

// As parallel_for, but hands out indices one by one to whichever thread is free: for work items of
// very different cost, such as the query tiles of causal attention.
template <class F>
void parallel_for_dynamic(const Context& ctx, int64_t count, F&& f) {
  std::exception_ptr error;
  const bool alone = ctx.num_threads <= 1 || count <= 1;
#pragma omp parallel for num_threads(ctx.num_threads) schedule(dynamic, 1) if (!alone)
  for (int64_t index = 0; index < count; ++index) {
    try {
      f(index);
    } catch (...) {
#pragma omp critical(longship_parallel_for)
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace longship
