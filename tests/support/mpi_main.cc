#include "tests/support/mpi_main.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <optional>

#include "parallel/mpi_runtime.h"
#include "runtime/cuda/device_info.h"

namespace {
std::optional<longship::MpiRuntime> runtime;  // a test program's own state, set by its main
}  // namespace

namespace longship::testing {
Group world() {
  return runtime->world();
}

const MpiRuntime& mpi() {
  return *runtime;
}
}  // namespace longship::testing

int longship_mpi_test_main(int argc, char** argv, longship::MpiRuntime::Options options) {
  ::testing::InitGoogleTest(&argc, argv);
  runtime.emplace(options);
  const longship::Group world = runtime->world();
  // A wrong launcher must look red, not green.
  const char* wanted = std::getenv("LONGSHIP_TEST_RANKS");
  if (wanted != nullptr && world.size() != std::atoi(wanted)) {
    std::fprintf(stderr, "expected %s ranks, found %d\n", wanted, world.size());
    runtime->abort(1);
  }
  // ctest knows a test that was skipped by this line.
  const char* wanted_gpus = std::getenv("LONGSHIP_TEST_GPUS");
  const size_t num_gpus = wanted_gpus != nullptr ? longship::visible_gpus().names.size() : 0;
  if (wanted_gpus != nullptr && num_gpus < static_cast<size_t>(std::atoi(wanted_gpus))) {
    if (world.rank() == 0)
      std::printf("skipped: needs %s GPUs, found %zu\n", wanted_gpus, num_gpus);
    return 0;
  }
  if (world.rank() != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    if (std::getenv("LONGSHIP_TEST_VERBOSE") == nullptr)
      delete listeners.Release(listeners.default_result_printer());
  }
  struct FailureWatcher : ::testing::EmptyTestEventListener {
    int rank;
    explicit FailureWatcher(int r) : rank(r) {}
    void OnTestPartResult(const ::testing::TestPartResult& result) override {
      if (result.failed() && rank != 0)
        std::fprintf(stderr, "rank %d: %s:%d\n%s\n", rank,
                     result.file_name() != nullptr ? result.file_name() : "in the test body",
                     result.line_number(), result.message());
      if (result.fatally_failed()) {
        std::fflush(nullptr);
        runtime->abort(1);
      }
    }
  };
  ::testing::UnitTest::GetInstance()->listeners().Append(new FailureWatcher(world.rank()));
  const int failed = RUN_ALL_TESTS();
  const int64_t any =
      world.all_reduce_value("test.result", int64_t{failed != 0}, longship::ReduceOp::kMax);
  return any != 0 ? 1 : 0;
}
