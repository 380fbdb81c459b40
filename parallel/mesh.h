// Mesh: the ranks of a job as a grid with axes dp (data) and sp (sequence).
#pragma once

#include "parallel/group.h"

namespace longship {

// World rank = dp.rank * sp.size + sp.rank: the ranks that share a sequence are neighbours.
struct Mesh {
  Group world;
  Group dp;
  Group sp;

  // Throws Error(kConfig) unless num_dp * num_sp equals the number of ranks. Collective.
  static Mesh make(const Group& world, int num_dp, int num_sp);
};

}  // namespace longship
