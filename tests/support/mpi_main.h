// For *_mpi_test.cc and *_gpu2_test.cc: main() starts MPI before GoogleTest; world() is the group
// of all ranks.
#pragma once

#include "parallel/group.h"
#include "parallel/mpi_runtime.h"

namespace longship::testing {

Group world();
const MpiRuntime& mpi();

}  // namespace longship::testing

int longship_mpi_test_main(int argc, char** argv,
                           longship::MpiRuntime::Options options = {.timeout_s = 120});

// Put once at the end of every such test; takes MpiRuntime::Options if a test needs its own. A
// test that fails fatally (ASSERT_*, an exception) on any rank ends the job, as the other ranks
// would wait for what that rank no longer sends.
#define LONGSHIP_MPI_TEST_MAIN(...)                                       \
  int main(int argc, char** argv) {                                       \
    return longship_mpi_test_main(argc, argv __VA_OPT__(, ) __VA_ARGS__); \
  }
