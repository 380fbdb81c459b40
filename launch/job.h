// What every multi-rank verb starts with: MPI, this rank's share of the host, and a Context.
#pragma once

#include <string>

#include "parallel/mpi_runtime.h"
#include "runtime/context.h"

namespace longship {

struct Job {
  explicit Job(double timeout_s = 600);

  MpiRuntime mpi;
  Group world;
  Context ctx;

  bool is_first_rank() const { return world.rank() == 0; }
  // Prints a line on rank 0.
  void say(const std::string& line) const;
};

// Threads one of `local_ranks` ranks on this host should compute with: OMP_NUM_THREADS if set; the
// cores it is bound to, if it is bound; else an equal share of the host.
int threads_per_rank(int local_ranks);

}  // namespace longship
