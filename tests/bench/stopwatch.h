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

struct RoundTimes {
  double shortest_s = 0;  // what the work takes where nothing disturbs it
  double median_s = 0;    // far above the shortest on a machine that others use
};

// The times of each of `runs` over as many rounds, in each of which all of them have their turn:
// what slows the machine down for a while slows all of them. Rounds begin with one run after the
// other, so that none always has the same one's memory in the caches. A first round is not counted.
inline std::vector<RoundTimes> times_of_rounds(int num_threads, int num_rounds,
                                               const std::vector<std::function<void()>>& runs) {
  std::vector<std::vector<double>> elapsed_s(runs.size());
  for (int round = -1; round < num_rounds; ++round)
    for (size_t turn = 0; turn < runs.size(); ++turn) {
      const size_t i = (turn + static_cast<size_t>(round + 1)) % runs.size();
      const double start = seconds_now(num_threads);
      runs[i]();
      if (round >= 0) elapsed_s[i].push_back(seconds_now(num_threads) - start);
    }
  std::vector<RoundTimes> times;
  for (std::vector<double>& of_run : elapsed_s) {
    std::sort(of_run.begin(), of_run.end());
    const size_t n = of_run.size();
    times.push_back({of_run.front(), (of_run[(n - 1) / 2] + of_run[n / 2]) / 2});
  }
  return times;
}

}  // namespace longship
