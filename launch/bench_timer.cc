#include "launch/bench_timer.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "runtime/gpu.h"

namespace longship {
namespace {

double once_ms(const Context& ctx, const std::function<void()>& work) {
  if (ctx.gpu != nullptr) {
    ctx.gpu->compute->synchronize();
    const Event begin = ctx.gpu->compute->record_time();
    work();
    const Event end = ctx.gpu->compute->record_time();
    end.synchronize();
    return end.milliseconds_since(begin);
  }
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

}  // namespace

double median_ms(const Job& job, const BenchRounds& rounds, const std::function<void()>& work) {
  std::vector<double> times;
  for (int round = -rounds.num_warmups; round < rounds.num_rounds; ++round) {
    job.world.barrier("bench.round");
    const double own_ms = once_ms(job.ctx, work);
    const double slowest_ms = job.world.all_reduce_value("bench.ms", own_ms, ReduceOp::kMax);
    if (round >= 0) times.push_back(slowest_ms);
  }
  std::ranges::nth_element(times, times.begin() + std::ssize(times) / 2);
  return times[times.size() / 2];
}

}  // namespace longship
