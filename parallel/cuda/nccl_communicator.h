// Messages between GPUs through NCCL.
#pragma once

#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/cuda/comm_failure.h"
#include "parallel/cuda/stream_waits.h"
#include "parallel/group.h"
#include "runtime/gpu.h"

struct ncclComm;

namespace longship {

class NcclCommunicator {
 public:
  // Collective over `hosts`, the same ranks over MPI; `others` names all but this one. Throws
  // Error(kTimeout) if NCCL does not connect them before the deadline.
  NcclCommunicator(const Group& hosts, std::string others, std::shared_ptr<const Gpu> gpu,
                   std::shared_ptr<CommFailure> failure, std::shared_ptr<StreamWaits> waits);
  // Waits a few seconds for peers that end later, and leaves them after that.
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  // Enqueues messages, none of them empty or to this rank itself, on `stream`. Returns when NCCL
  // has enqueued them, which on first use means to connect to the peers.
  void exchange(const std::string& operation, const std::vector<P2P>& batch, const Stream& stream);

  // Throws what NCCL has found since; any thread. Nothing while a call is under way.
  void check();
  // Ends its kernels, also those that wait for peers; any thread, and waits for no peer. For ending
  // a job.
  void abort() noexcept;

 private:
  // Waits until NCCL is done with a call that it goes on with in the background.
  void finish(int status, const std::string& operation);
  Error error(int status, const std::string& operation) const;

  const std::string others_;
  const std::shared_ptr<const Gpu> gpu_;
  const std::shared_ptr<CommFailure> failure_;
  const std::shared_ptr<StreamWaits> waits_;
  std::mutex mutex_;
  ncclComm* handle_ = nullptr;
  std::future<void> ended_;  // once the handle is given up
};

}  // namespace longship
