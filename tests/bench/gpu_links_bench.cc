// How fast Group moves tensors between GPUs, by each transport: mpirun -n 2 gpu_links_bench. Prints
// microseconds and GB/s per direction for messages of several lengths, many in a row, by the GPU's
// clock.
#include <cstdio>
#include <functional>
#include <vector>

#include "launch/guarded_main.h"
#include "parallel/cuda/gpu_runtime.h"

namespace longship {
namespace {

double fastest_us(const GpuRuntime& runtime, const MpiRuntime& mpi,
                  const std::function<Work()>& operation) {
  constexpr int kRounds = 20, kTries = 3;
  const Stream& stream = *runtime.context().gpu->compute;
  double best = 1e30;
  for (int attempt = 0; attempt <= kTries; ++attempt) {
    mpi.world().barrier("bench");
    const Event begin = stream.record_time();
    for (int round = 0; round < kRounds; ++round) operation().wait();
    const Event end = stream.record_time();
    end.synchronize();
    if (attempt > 0) best = std::min(best, end.milliseconds_since(begin) * 1e3 / kRounds);
  }
  return mpi.world().all_reduce_value("bench", best, ReduceOp::kMax);
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
    const double shift_us = fastest_us(runtime, mpi, [&] {
      return world.exchange("bench", {P2P::send(next, out), P2P::receive(previous, in)});
    });
    const double gather_us =
        fastest_us(runtime, mpi, [&] { return world.all_gather("bench", out, all, rows); });
    const double reduce_us =
        fastest_us(runtime, mpi, [&] { return world.all_reduce("bench", in); });
    const auto rate = [](double sent_bytes, double us) { return sent_bytes / us * 1e-3; };
    const auto n = static_cast<double>(bytes);
    if (is_first)
      std::printf(
          "%10lld B  exchange %8.1f us %6.1f GB/s  all_gather %8.1f us %6.1f GB/s  "
          "all_reduce %8.1f us %6.1f GB/s\n",
          static_cast<long long>(bytes), shift_us, rate(n, shift_us), gather_us,
          rate(n * (size - 1), gather_us), reduce_us, rate(2 * n * (size - 1) / size, reduce_us));
  }
}

}  // namespace
}  // namespace longship

int main() {
  using longship::run;
  using longship::TransportWish;
  return longship::guarded_main([] {
    const longship::MpiRuntime mpi;
    run(mpi, TransportWish::kPeerCopies, "peer copies");
    run(mpi, TransportWish::kNccl, "NCCL");
    run(mpi, TransportWish::kMeasured, "measured");
    return 0;
  });
}
