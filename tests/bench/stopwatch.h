// How long work takes: by the thread's own clock if it runs on one thread, which other programs on
// the machine disturb less, else by the wall clock.
#pragma once

#include <algorithm>
#include <ctime>
#include <functional>
#include <limits>
#include <vector>

namespace longship {

inline double seconds_now(int num_threads) {
  timespec now{};
  clock_gettime(num_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The shortest of at least two runs, repeated for `budget_s`; one more, which gets its memory from
// the system, is not counted.
template <class Run>
double shortest_run_s(int num_threads, double budget_s, Run&& run) {
  run();
  double shortest_s = std::numeric_limits<double>::infinity(), spent_s = 0;
  for (int count = 0; count < 2 || (spent_s < budget_s && count < 50); ++count) {
    const double start = seconds_now(num_threads);
    run();
    const double elapsed_s = seconds_now(num_threads) - start;
    shortest_s = std::min(shortest_s, elapsed_s);
    spent_s += elapsed_s;
  }
  return shortest_s;
}

// The shortest time of each of `runs` over as many rounds, in each of which all of them have their
// turn: what slows the machine down for a while slows all of them. A first round is not counted.
inline std::vector<double> shortest_of_rounds_s(int num_threads, int num_rounds,
                                                const std::vector<std::function<void()>>& runs) {
  std::vector<double> shortest_s(runs.size(), std::numeric_limits<double>::infinity());
  for (int round = -1; round < num_rounds; ++round)
    for (size_t i = 0; i < runs.size(); ++i) {
      const double start = seconds_now(num_threads);
      runs[i]();
      const double elapsed_s = seconds_now(num_threads) - start;
      if (round >= 0) shortest_s[i] = std::min(shortest_s[i], elapsed_s);
    }
  return shortest_s;
}

}  // namespace longship
