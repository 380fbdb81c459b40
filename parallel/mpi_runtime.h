// The MPI backend of Group: start-up, shutdown, and the world group.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "parallel/group.h"

namespace longship {

class MpiBackend;
class MpiEngine;
struct MpiCommunicator;

// Owns MPI for the process. One thread makes every MPI call and drives transfers while the other
// threads compute. Works without mpirun too, as a world of one rank.
class MpiRuntime {
 public:
  struct Options {
    double timeout_s = 600;  // deadline of Work::wait()
    // Longer messages travel in pieces, as MPI counts have 31 bits.
    int64_t max_message_bytes = int64_t{1} << 30;
  };

  // Initialises MPI, once per process.
  MpiRuntime() : MpiRuntime(Options{}) {}
  explicit MpiRuntime(Options options);
  // Finalises MPI, which waits for the other ranks; no Group may be used afterwards. When an
  // exception is passing, the others may never come: MPI is left as it is, for abort_job().
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  Group world() const;
  // For backends that wrap it.
  std::shared_ptr<MpiBackend> world_backend() const { return world_; }

  // The deadline from now on, of the world group and of groups split from it after this call. No
  // operation may be in flight.
  void set_timeout(double timeout_s);

  // Ranks on this host, for sharing its cores.
  int local_size() const { return local_size_; }
  // This process among them, and the rank in the world of the first of them, which names the host.
  int local_rank() const { return local_rank_; }
  int host_leader() const { return host_leader_; }

  // Ends every rank of the job with this exit code; for a rank that failed while others wait.
  [[noreturn]] void abort(int exit_code) noexcept;

  // This process's rank, while MPI is initialised and not finalised.
  static std::optional<int> job_rank() noexcept;
  // As abort(), for when an exception has passed the runtime. Returns if MPI is not initialised or
  // already finalised.
  static void abort_job(int exit_code) noexcept;

 private:
  std::shared_ptr<MpiEngine> engine_;
  std::shared_ptr<MpiCommunicator> world_communicator_;
  std::shared_ptr<MpiBackend> world_;
  double timeout_s_;
  int local_size_ = 1;
  int local_rank_ = 0;
  int host_leader_ = 0;
  int exceptions_at_start_;
};

}  // namespace longship
