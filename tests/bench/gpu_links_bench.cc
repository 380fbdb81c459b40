// How fast Group moves tensors between GPUs, by each transport: mpirun -n 2 gpu_links_bench. Prints
// microseconds and GB/s per direction for messages of several lengths, many in a row, by the GPU's
// clock, and how long the host takes to issue them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

#include "launch/guarded_main.h"
#include "parallel/cuda/gpu_runtime.h"

namespace longship {
namespace {

struct Times {
  double us = 1e30;       // of the GPU, of one of many operations
  double host_us = 1e30;  // of the call that issues it
};

// The best of some attempts, on the slowest rank. Operations are waited for one by one, or, if they
// are to be in flight together, at the end.
Times best_times(const GpuRuntime& runtime, const MpiRuntime& mpi, bool in_flight,
                 const std::function<Work()>& operation) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRounds = 20, kTries = 5;
  const Stream& stream = *runtime.context().gpu->compute;
  std::vector<Work> works(kRounds);
  Times best;
  for (int attempt = 0; attempt <= kTries; ++attempt) {
    mpi.world().barrier("bench");
    const Event begin = stream.record_time();
    const auto host_begin = Clock::now();
    for (Work& work : works) {
      work = operation();
      if (!in_flight) work.wait();
    }
    const double host_us =
        std::chrono::duration<double, std::micro>(Clock::now() - host_begin).count();
    for (auto work = works.rbegin(); work != works.rend(); ++work) work->wait();
    const Event end = stream.record_time();
    end.synchronize();
    if (attempt == 0) continue;
    best.us = std::min(best.us, end.milliseconds_since(begin) * 1e3 / kRounds);
    best.host_us = std::min(best.host_us, host_us / kRounds);
  }
  best.us = mpi.world().all_reduce_value("bench", best.us, ReduceOp::kMax);
  return best;
}

void run(const MpiRuntime& mpi, TransportWish wish, const char* name) {
  const GpuRuntime runtime(mpi, {.transports = wish});
  const Context& ctx = runtime.context();
  const Group world = runtime.world();
  const bool is_first = world.rank() == 0;
  const int size = world.size();
  if (is_first) std::printf("%s: %s\n", name, runtime.transports().c_str());
  const int next = (world.rank() + 1) % size, previous = (world.rank() + size - 1) % size;
  for (int64_t bytes = 4096; bytes <= int64_t{256} << 20; bytes *= 16) {
    const Tensor out = ctx.zeros({bytes / 4}, DType::kF32),
                 in = ctx.zeros({bytes / 4}, DType::kF32);
    const Tensor all = ctx.zeros({size * (bytes / 4)}, DType::kF32);
    const std::vector<int64_t> rows(static_cast<size_t>(size), bytes / 4);
    constexpr int64_t kRowFloats = 512;  // of columns
    const int64_t num_rows = bytes / 4 / kRowFloats;
    const Tensor wide_out = ctx.zeros({num_rows, 2, kRowFloats}, DType::kF32),
                 wide_in = ctx.zeros({num_rows, 2, kRowFloats}, DType::kF32);
    const auto shift = [&](const Tensor& sent, const Tensor& received) {
      return world.exchange("bench", {P2P::send(next, sent), P2P::receive(previous, received)});
    };
    const auto best = [&](bool in_flight, const std::function<Work()>& operation) {
      return best_times(runtime, mpi, in_flight, operation);
    };
    const Times waited = best(false, [&] { return shift(out, in); });
    const Times flying = best(true, [&] { return shift(out, in); });
    const Times columns =
        best(true, [&] { return shift(wide_out.slice(1, 1, 1), wide_in.slice(1, 0, 1)); });
    const Times gather = best(false, [&] { return world.all_gather("bench", out, all, rows); });
    const Times reduce = best(false, [&] { return world.all_reduce("bench", in); });
    const auto rate = [](int64_t sent_bytes, const Times& times) {
      return static_cast<double>(sent_bytes) / times.us * 1e-3;
    };
    if (is_first)
      std::printf(
          "%10lld B  exchange, one by one %8.1f us %6.1f GB/s (host %5.1f us)  in flight %8.1f us "
          "%6.1f GB/s (host %5.1f us)  columns of 2 KiB %8.1f us %6.1f GB/s  all_gather %8.1f us "
          "%6.1f GB/s  all_reduce %8.1f us %6.1f GB/s\n",
          static_cast<long long>(bytes), waited.us, rate(bytes, waited), waited.host_us, flying.us,
          rate(bytes, flying), flying.host_us, columns.us, rate(bytes, columns), gather.us,
          rate(bytes * (size - 1), gather), reduce.us, rate(2 * bytes * (size - 1) / size, reduce));
  }
}

}  // namespace
}  // namespace longship

int main() {
  using longship::run;
  using longship::TransportWish;
  return longship::guarded_main([] {
    const longship::MpiRuntime mpi;
    run(mpi, TransportWish::kPeerStores, "peer stores");
    run(mpi, TransportWish::kPeerCopies, "peer copies");
    run(mpi, TransportWish::kNccl, "NCCL");
    run(mpi, TransportWish::kMeasured, "measured");
    return 0;
  });
}
