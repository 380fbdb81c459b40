#include "parallel/mpi_runtime.h"

#include <mpi.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>

#include "parallel/mpi_engine.h"
#include "parallel/mpi_group.h"

namespace longship {
namespace {

// The engine answers within microseconds, unless it is inside an MPI call that waits for a rank
// that is gone.
constexpr double kHaltTimeout_s = 1;

bool is_running() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized != 0 && finalized == 0;
}

}  // namespace

MpiRuntime::MpiRuntime(Options options)
    : timeout_s_(options.timeout_s), exceptions_at_start_(std::uncaught_exceptions()) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  LONGSHIP_CHECK(initialized == 0, "MPI can be initialised only once in a process");
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_SERIALIZED)
    throw Error(
        ErrorCode::kConfig,
        {.what = "the MPI library cannot be called from a thread of its own",
         .expected = "support for MPI_THREAD_SERIALIZED",
         .found = fmt::format("thread level {}", provided),
         .next = "use an MPI library built with thread support, such as Debian's Open MPI"});

  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_size(host, &local_size_), "MPI_Comm_size");
  check_mpi(MPI_Comm_rank(host, &local_rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &host_leader_), "MPI_Comm_rank");
  check_mpi(MPI_Bcast(&host_leader_, 1, MPI_INT, 0, host), "MPI_Bcast");
  check_mpi(MPI_Comm_free(&host), "MPI_Comm_free");

  auto world = std::make_shared<MpiCommunicator>();
  world->timeout_s = options.timeout_s;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world->handle), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(world->handle, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(world->handle, &world->rank), "MPI_Comm_rank");
  int size = 0;
  check_mpi(MPI_Comm_size(world->handle, &size), "MPI_Comm_size");
  world->world_ranks.resize(static_cast<size_t>(size));
  std::iota(world->world_ranks.begin(), world->world_ranks.end(), 0);

  engine_ = MpiEngine::start(options.max_message_bytes);
  engine_->run([&] { engine_->adopt(world->handle); });
  world_ = std::make_shared<MpiBackend>(engine_, world, std::make_shared<CommRecorder>());
  world_communicator_ = std::move(world);
}

Group MpiRuntime::world() const {
  return Group(world_);
}

void MpiRuntime::set_timeout(double timeout_s) {
  timeout_s_ = timeout_s;
  world_communicator_->timeout_s = timeout_s;
}

MpiRuntime::~MpiRuntime() {
  if (std::uncaught_exceptions() > exceptions_at_start_) {
    engine_->halt(kHaltTimeout_s);
    return;
  }
  if (!engine_->stop(timeout_s_)) {
    std::fprintf(stderr,
                 "longship: rank %d: messages that nobody waited for were not taken within %g s\n",
                 world_->rank(), timeout_s_);
    abort(static_cast<int>(ErrorCode::kTimeout));
  }
  MPI_Finalize();
}

void MpiRuntime::abort(int exit_code) noexcept {
  engine_->halt(kHaltTimeout_s);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

std::optional<int> MpiRuntime::job_rank() noexcept {
  if (!is_running()) return std::nullopt;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

void MpiRuntime::abort_job(int exit_code) noexcept {
  if (!is_running()) return;
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace longship
