#include "launch/bench_timer.h"

#include <algorithm>
#include <chrono>

#include "runtime/gpu.h"

namespace longship {
namespace {

// Of one of `repeats` in a row, so that a GPU has the next one enqueued while it is at work.
double once_ms(const Context& ctx, const BenchTimer::Work& work, int repeats) {
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

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::ranges::nth_element(values, middle);
  return *middle;
}

// The rounds of one kind of work. The first ones, below 0, are warm-up.
class BenchTimer::Series {
 public:
  Series(const BenchTimer& timer, const Work& work) : timer_(timer), work_(work) {}

  void run(int round) {
    // A round of short work is this long, of as many repeats as that takes.
    constexpr double kRoundMs = 60;
    timer_.world_.barrier("bench.round");
    const double own_ms = once_ms(timer_.ctx_, work_, repeats_);
    const double slowest_ms = timer_.world_.all_reduce_value("bench.ms", own_ms, ReduceOp::kMax);
    if (round >= 0) times_ms_.push_back(slowest_ms);
    if (round == -1)
      repeats_ = static_cast<int>(std::clamp(kRoundMs / std::max(slowest_ms, 1e-3), 1.0, 50.0));
  }

  const std::vector<double>& times_ms() const { return times_ms_; }

 private:
  const BenchTimer& timer_;
  const Work& work_;
  int repeats_ = 1;
  std::vector<double> times_ms_;
};

double BenchTimer::median_ms(const Work& work) const {
  Series series(*this, work);
  for (int round = -rounds_.num_warmups; round < rounds_.num_rounds; ++round) series.run(round);
  return median(series.times_ms());
}

BenchTimer::Comparison BenchTimer::compare(const Work& work, const Work& other) const {
  Series series(*this, work), others(*this, other);
  for (int round = -rounds_.num_warmups; round < rounds_.num_rounds; ++round) {
    const bool swapped = round % 2 != 0;
    (swapped ? others : series).run(round);
    (swapped ? series : others).run(round);
  }
  std::vector<double> differences_ms = series.times_ms();
  for (size_t i = 0; i < differences_ms.size(); ++i) differences_ms[i] -= others.times_ms()[i];
  return {.ms = median(series.times_ms()),
          .other_ms = median(others.times_ms()),
          .difference_ms = median(std::move(differences_ms))};
}

}  // namespace longship
