#include "launch/guarded_main.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <thread>

#include "parallel/mpi_runtime.h"
#include "runtime/error.h"

namespace longship {
namespace {

struct Failure {
  int exit_code;
  std::string message;
};

Failure current_failure() {
  try {
    throw;
  } catch (const Error& error) {
    return {static_cast<int>(error.code()),
            fmt::format("{}: {}", error_code_name(error.code()), error.what())};
  } catch (const std::bad_alloc&) {
    return {
        static_cast<int>(ErrorCode::kOutOfMemory),
        fmt::format("{}: the system has no memory left", error_code_name(ErrorCode::kOutOfMemory))};
  } catch (const std::exception& error) {
    return {static_cast<int>(ErrorCode::kInternal),
            fmt::format("{}: {}", error_code_name(ErrorCode::kInternal), error.what())};
  } catch (...) {
    return {static_cast<int>(ErrorCode::kInternal),
            fmt::format("{}: an exception of unknown type", error_code_name(ErrorCode::kInternal))};
  }
}

// The rank that the launcher tells a process without MPI; 0 without a launcher.
int launched_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK"})
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return 0;
}

}  // namespace

int guarded_main(const std::function<int()>& body) {
  try {
    return body();
  } catch (...) {
    const Failure failure = current_failure();
    const std::optional<int> mpi_rank = MpiRuntime::job_rank();
    const int rank = mpi_rank.value_or(launched_rank());
    // If rank 0 has failed too, the job ends within this time, and nothing is said twice. Without
    // MPI only the launcher can end it, which takes longer.
    if (rank != 0) std::this_thread::sleep_for(std::chrono::milliseconds(mpi_rank ? 500 : 2000));
    const std::string place = rank != 0 ? fmt::format(", rank {}", rank) : "";
    std::fputs(fmt::format("longship{}: {}\n", place, failure.message).c_str(), stderr);
    MpiRuntime::abort_job(failure.exit_code);
    return failure.exit_code;
  }
}

}  // namespace longship
