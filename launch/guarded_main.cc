#include "launch/guarded_main.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
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

// The rank, also before and after MPI, when the launcher tells it; 0 without a launcher.
int rank_in_job() {
  if (const auto rank = MpiRuntime::job_rank()) return *rank;
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
    const int rank = rank_in_job();
    // Rank 0 ends the job within this time if it has failed too; then nothing is said twice.
    if (rank != 0) std::this_thread::sleep_for(std::chrono::milliseconds(500));
    const std::string place = rank != 0 ? fmt::format(", rank {}", rank) : "";
    std::fputs(fmt::format("longship{}: {}\n", place, failure.message).c_str(), stderr);
    MpiRuntime::abort_job(failure.exit_code);
    return failure.exit_code;
  }
}

}  // namespace longship
