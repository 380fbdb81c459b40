// A job with more ranks on a host than it has GPUs is refused, on every rank.
// ranks: 1 2
#include "parallel/cuda/gpu_runtime.h"

#include <gtest/gtest.h>

#include "runtime/cuda/device_info.h"
#include "tests/support/expect_error.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::world;

TEST(GpuRuntime, RefusesMoreRanksThanGpus) {
  const CudaInfo info = cuda_info();
  if (std::ssize(info.gpus) >= testing::mpi().local_size())
    GTEST_SKIP() << info.gpus.size() << " GPUs are enough";
  const auto start = [] { GpuRuntime(testing::mpi(), {}); };
  if (info.built) {
    testing::expect_error(ErrorCode::kConfig, {"rank ", "GPU ", "a GPU for every rank"}, start);
  } else {
    testing::expect_error(ErrorCode::kConfig, {"no CUDA code"}, start);
  }
  // The ranks still work together.
  EXPECT_EQ(world().all_reduce_value("test", int64_t{1}, ReduceOp::kSum), world().size());
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
