#include "launch/bench_timer.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "runtime/gpu.h"

namespace longship {
namespace {

// Of one of `repeats` in a row, so that a GPU has the next one enqueued while it is at work.
double once_ms(const Context& ctx, const std::function<void()>& work, int repeats) {
  if (ctx.gpu != nullptr) {
    ctx.gpu->compute->synchronize();
    const Event begin = ctx.gpu->compute->record_time();
    for (int i = 0; i < repeats; ++i) work();
    const Event end = ctx.gpu->compute->record_time();
    end.synchronize();
    return end.milliseconds_since(begin) / repeats;
  }
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
             .count() /
         repeats;
}

}  // namespace

double median_ms(const Job& job, const BenchRounds& rounds, const std::function<void()>& work) {
  // A round of short work is this long, of as many repeats as that takes.
  constexpr double kRoundMs = 60;
  int repeats = 1;
  std::vector<double> times;
  for (int round = -rounds.num_warmups; round < rounds.num_rounds; ++round) {
    job.world.barrier("bench.round");
    const double own_ms = once_ms(job.ctx, work, repeats);
    const double slowest_ms = job.world.all_reduce_value("bench.ms", own_ms, ReduceOp::kMax);
    if (round >= 0) times.push_back(slowest_ms);
    if (round == -1)
      repeats = static_cast<int>(std::clamp(kRoundMs / std::max(slowest_ms, 1e-3), 1.0, 50.0));
  }
  std::ranges::nth_element(times, times.begin() + std::ssize(times) / 2);
  return times[times.size() / 2];
}

}  // namespace longship
