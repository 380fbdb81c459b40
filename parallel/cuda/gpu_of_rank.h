// Which GPU a rank uses.
#pragma once

#include <string>

#include "parallel/mpi_runtime.h"

namespace longship {

struct GpuOfRank {
  int ordinal = 0;
  // Why this rank's GPU, or another rank's, cannot reach its neighbours' memory; empty if every GPU
  // reaches all others of its host.
  std::string no_peer_access;
};

// Collective. The GPU with the number of the rank among those of its host; the only one, for a rank
// that sees no other. Throws Error(kConfig) on every rank if there are too few.
GpuOfRank choose_gpu(const MpiRuntime& mpi);

}  // namespace longship
