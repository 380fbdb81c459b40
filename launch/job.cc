#include "launch/job.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "launch/device_choice.h"
#include "runtime/cuda/device_info.h"
#include "runtime/gpu.h"

namespace longship {
namespace {

// Threads one of `local_ranks` ranks on this host should compute with: OMP_NUM_THREADS if set; the
// cores it is bound to, if it is bound; else an equal share of the host.
int threads_per_rank(int local_ranks) {
  if (std::getenv("OMP_NUM_THREADS") != nullptr) return std::max(1, omp_get_max_threads());
  const int host_cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  cpu_set_t mine;
  CPU_ZERO(&mine);
  const int bound_cores =
      sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : host_cores;
  const bool is_bound = bound_cores < host_cores;
  return is_bound ? bound_cores : std::max(1, host_cores / std::max(1, local_ranks));
}

}  // namespace

Job::Job(double timeout_s) : mpi(MpiRuntime::Options{.timeout_s = timeout_s}), world(mpi.world()) {
  ctx.num_threads = threads_per_rank(mpi.local_size());
  omp_set_num_threads(ctx.num_threads);  // oneDNN follows it
}

void Job::choose_device(const config::Run& run) {
  ctx.deterministic = run.train().deterministic();
  const config::Train::Device wish = run.train().device();
  if (wish == config::Train::CPU) {
    device = "CPU, as train.device says";
    return;
  }
  std::string obstacle = gpu_obstacle(run, world);
  if (obstacle.empty()) {
    try {
      return use_gpu(run.parallel().timeout_s());
    } catch (const Error& error) {
      // Ranks without a GPU of their own; all of them are told.
      if (wish == config::Train::CUDA || error.code() != ErrorCode::kConfig) throw;
      obstacle = fmt::format("{}, {}", error.report().what, error.report().found);
    }
  }
  if (wish == config::Train::CUDA)
    throw Error(ErrorCode::kConfig, {.what = "train.device: CUDA cannot be had",
                                     .found = obstacle,
                                     .next = "remove the obstacle, or set train.device: CPU"});
  device = "CPU: " + obstacle;
}

void Job::use_gpu(double timeout_s) {
  gpu.emplace(mpi, GpuRuntime::Options{.timeout_s = timeout_s});
  Context on_gpu = gpu->context();
  on_gpu.num_threads = ctx.num_threads;
  on_gpu.deterministic = ctx.deterministic;
  ctx = on_gpu;
  world = gpu->world();
  device = fmt::format("{}, {}", gpu_name(ctx.gpu->device.index), gpu->transports());
}

void Job::say(const std::string& line) const {
  if (!is_first_rank()) return;
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace longship
