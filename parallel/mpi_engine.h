// MpiEngine: the thread that makes every MPI call between start-up and shutdown, and so moves
// messages while the other threads of the rank compute.
#pragma once

#include <mpi.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "parallel/mpi_operation.h"

namespace longship {

// Throws Error(kInternal) with MPI's own text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call);

class MpiEngine : public std::enable_shared_from_this<MpiEngine> {
 public:
  // Messages longer than `max_message_bytes` travel in pieces, as MPI counts have 31 bits.
  static std::shared_ptr<MpiEngine> start(int64_t max_message_bytes);

  // Starts an operation at once, whatever the thread is waiting for.
  void submit(std::shared_ptr<MpiOperation> operation);
  // Runs `task` on the engine's thread, and returns when it has run. Rethrows its exception.
  void run(const std::function<void()>& task);

  // Waits until all operations are complete, frees the communicators given to adopt() and ends the
  // thread. False if that takes longer than `timeout_s`.
  bool stop(double timeout_s);
  // For a rank that failed: the thread makes no more MPI calls, but keeps the buffers that messages
  // in flight may still reach until the process ends. Gives up waiting for the thread after
  // `timeout_s`.
  void halt(double timeout_s) noexcept;

  // Engine thread only: the communicator is freed by stop().
  void adopt(MPI_Comm communicator) { communicators_.push_back(communicator); }

 private:
  enum class Phase { kRunning, kStopping, kHalting, kEnded };
  struct InFlight {
    std::shared_ptr<MpiOperation> operation;
    P2P::Kind kind;
    int peer;
    int bytes;
  };

  explicit MpiEngine(int64_t max_message_bytes) : max_message_bytes_(max_message_bytes) {}
  void loop();
  // Takes operations and tasks from the queues and starts them; false once the thread has to end.
  bool take_orders();
  void advance(const std::shared_ptr<MpiOperation>& operation);
  void post(const std::shared_ptr<MpiOperation>& operation, const MpiStage& stage);
  // Handles what has completed; false if nothing has.
  bool poll();
  void finish_message(const InFlight& message, const MPI_Status& status, int code);
  bool await_phase(Phase phase, double timeout_s);

  const int64_t max_message_bytes_;

  std::mutex mutex_;
  std::condition_variable changed_;
  Phase phase_ = Phase::kRunning;
  std::deque<std::shared_ptr<MpiOperation>> operations_;
  std::deque<std::function<void()>> tasks_;

  // Engine thread only. requests_[i] belongs to in_flight_[i].
  std::vector<MPI_Request> requests_;
  std::vector<InFlight> in_flight_;
  std::vector<int> completed_;
  std::vector<MPI_Status> statuses_;
  std::vector<MPI_Comm> communicators_;
};

}  // namespace longship
