// The MPI backend of Group: start-up, the progress thread, and the world group.
#pragma once

#include <memory>

#include "parallel/group.h"

namespace longship {

// Owns MPI for the process. One thread makes every MPI call and drives transfers while the other
// threads compute. Works without mpirun too, as a world of one rank.
class MpiRuntime {
 public:
  struct Options {
    double timeout_s = 600;  // deadline of Work::wait()
  };

  // Initialises MPI. At most one at a time.
  MpiRuntime();
  explicit MpiRuntime(Options options);
  // Finalises MPI; all Groups must be gone.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  Group world() const;
  // Ranks on this host, for sharing its cores.
  int local_size() const;

  // Ends every rank of the job with this exit code; for a rank that failed while others wait.
  [[noreturn]] void abort(int exit_code) noexcept;

 private:
  class Engine;
  std::shared_ptr<Engine> engine_;
  friend class MpiBackend;
};

}  // namespace longship
