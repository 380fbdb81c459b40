#include "parallel/link_rates.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "runtime/gpu.h"
#include "runtime/seconds_since.h"

namespace longship {
namespace {

constexpr std::string_view kLabel = "link_rates";
constexpr int kRounds = 4;  // the first of which may set up connections
constexpr int64_t kSmallBytes = 64;

// Seconds of the fastest round, with all ranks starting together.
template <class Send>
double fastest(const Context& ctx, const Group& group, const Send& send) {
  using Clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < kRounds; ++round) {
    if (ctx.gpu != nullptr) ctx.gpu->compute->synchronize();
    group.barrier(kLabel);
    const Clock::time_point begin = Clock::now();
    send().wait();
    if (ctx.gpu != nullptr) ctx.gpu->compute->synchronize();
    best = std::min(best, seconds_since(begin));
  }
  return std::max(best, 1e-9);
}

// The rate at which the bytes beyond the small message went; never above 1 TB/s, where clocks lie.
double rate(double bytes, double seconds, double latency_s) {
  return bytes / std::max(seconds - latency_s, bytes / 1e12);
}

}  // namespace

LinkRates measure_links(const Context& ctx, const Group& group, int64_t largest_bytes) {
  const int P = group.size();
  LONGSHIP_CHECK(P > 1 && largest_bytes > kSmallBytes, "links of {} rank(s), messages of {} bytes",
                 P, largest_bytes);
  const int next = (group.rank() + 1) % P, previous = (group.rank() + P - 1) % P;
  auto shift_s = [&](int64_t bytes) {
    const Tensor out = ctx.zeros({bytes / 4}, DType::kF32),
                 in = ctx.empty({bytes / 4}, DType::kF32);
    return fastest(ctx, group, [&] {
      return group.exchange(kLabel, {P2P::send(next, out), P2P::receive(previous, in)});
    });
  };
  LinkRates rates;
  rates.latency_s = shift_s(kSmallBytes);
  rates.shift_bytes_per_s =
      rate(static_cast<double>(largest_bytes), shift_s(largest_bytes), rates.latency_s);

  const int64_t rows_each = largest_bytes / 4 / P;
  const std::vector<int64_t> rows(static_cast<size_t>(P), rows_each);
  const Tensor out = ctx.zeros({rows_each * P}, DType::kF32),
               in = ctx.empty({rows_each * P}, DType::kF32);
  const double all_s =
      fastest(ctx, group, [&] { return group.all_to_all(kLabel, out, rows, in, rows); });
  rates.exchange_bytes_per_s =
      rate(static_cast<double>(rows_each * 4 * (P - 1)), all_s, rates.latency_s);

  const std::string mine(reinterpret_cast<const char*>(&rates), sizeof rates);
  const std::string first = group.broadcast_bytes(kLabel, mine, 0);
  std::memcpy(&rates, first.data(), sizeof rates);
  return rates;
}

}  // namespace longship
