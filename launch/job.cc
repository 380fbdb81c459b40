#include "launch/job.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace longship {

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

Job::Job(double timeout_s) : mpi(MpiRuntime::Options{.timeout_s = timeout_s}), world(mpi.world()) {
  ctx.num_threads = threads_per_rank(mpi.local_size());
  omp_set_num_threads(ctx.num_threads);  // oneDNN follows it
}

void Job::say(const std::string& line) const {
  if (!is_first_rank()) return;
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace longship
