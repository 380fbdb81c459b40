#include "parallel/mesh.h"

namespace longship {

Mesh Mesh::make(const Group& world, int num_dp, int num_sp) {
  const bool positive = num_dp >= 1 && num_sp >= 1;
  if (!positive || int64_t{num_dp} * num_sp != world.size()) {
    throw Error(
        ErrorCode::kConfig,
        {.what = fmt::format("parallel: the mesh dp = {}, sp = {} does not fit the job", num_dp,
                             num_sp),
         .expected = fmt::format("dp * sp = {}, the number of ranks", world.size()),
         .found = positive ? fmt::format("{}", int64_t{num_dp} * num_sp) : "an axis below 1",
         .next = positive ? fmt::format("start with mpirun -n {}, or change dp or sp",
                                        int64_t{num_dp} * num_sp)
                          : "set dp and sp to at least 1"});
  }
  const int dp_rank = world.rank() / num_sp;
  const int sp_rank = world.rank() % num_sp;
  return {.world = world, .dp = world.split(sp_rank, dp_rank), .sp = world.split(dp_rank, sp_rank)};
}

}  // namespace longship
