// For *_mpi_test.cc: main() starts MPI before GoogleTest; world() is the group of all ranks.
#pragma once

#include "parallel/group.h"

namespace longship::testing {

Group world();

}  // namespace longship::testing

int longship_mpi_test_main(int argc, char** argv);

// Put once at the end of every *_mpi_test.cc.
#define LONGSHIP_MPI_TEST_MAIN()               \
  int main(int argc, char** argv) {            \
    return longship_mpi_test_main(argc, argv); \
  }
