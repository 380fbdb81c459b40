// MpiOperation: one asynchronous operation over MPI, as stages of point-to-point messages that the
// engine drives, and as the Work that a caller waits for.
#pragma once

#include <mpi.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/comm_recorder.h"
#include "parallel/group.h"
#include "parallel/message_rows.h"

namespace longship {

// A communicator as the operations of one group see it. The engine owns the MPI handle.
struct MpiCommunicator {
  MPI_Comm handle = MPI_COMM_NULL;
  int rank = 0;
  std::vector<int> world_ranks;  // of each rank of the group, for messages to people
  double timeout_s = 0;

  int size() const { return static_cast<int>(world_ranks.size()); }
};

struct MpiMessage {
  P2P::Kind kind;
  int peer;
  std::byte* data;
  int64_t bytes;
};

struct LocalCopy {
  std::byte* to;
  const std::byte* from;
  RowCopy rows;
};

// Messages that are in flight together; the copies are made while they are.
struct MpiStage {
  std::vector<MpiMessage> messages;
  std::vector<LocalCopy> copies;
};

class MpiOperation : public Work::State {
 public:
  struct Identity {
    std::shared_ptr<const MpiCommunicator> communicator;
    std::shared_ptr<CommRecorder> recorder;
    std::string label;
    int tag = 0;  // the number of the operation in its group, so that operations cannot cross
  };

  explicit MpiOperation(Identity identity) : identity_(std::move(identity)) {}

  // For callers, any thread.
  void wait() override;
  bool done() override { return finished_.load(std::memory_order_acquire); }

  const Identity& identity() const { return identity_; }

  // The rest is for the engine's thread.

  // Fills in the next stage, once all messages of the one before are complete. False when there is
  // none: the operation has then let go of its tensors.
  virtual bool next_stage(MpiStage& stage) = 0;

  void begin_stage(const std::vector<MpiMessage>& messages);
  // True when this was the last message of the stage.
  bool complete_message(P2P::Kind kind, int peer);
  // Ends the operation; the error, if any, is thrown by wait().
  void finish(std::exception_ptr error = nullptr);

 private:
  Error timeout_error() const;

  const Identity identity_;
  mutable std::mutex mutex_;
  std::condition_variable finished_changed_;
  std::atomic<bool> finished_ = false;
  bool started_ = false;
  std::exception_ptr error_;
  std::vector<std::pair<P2P::Kind, int>> missing_;  // messages in flight: kind and peer
};

}  // namespace longship
