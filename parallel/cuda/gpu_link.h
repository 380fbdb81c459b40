// The GPUs of one group: its stream, its transports, and the operations in flight.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "parallel/cuda/comm_watch.h"
#include "parallel/cuda/gpu_operation.h"
#include "parallel/cuda/nccl_communicator.h"
#include "parallel/cuda/peer_copies.h"
#include "parallel/transport_choice.h"

namespace longship {

// What all groups of a rank share.
struct GpuComm {
  std::shared_ptr<const Gpu> gpu;
  std::shared_ptr<CommFailure> failure;
  std::shared_ptr<StreamWaits> waits;
  std::shared_ptr<PeerMemory> peer_memory;
  std::unique_ptr<CommWatch> watch;
  int world_rank = 0;
  int host = 0;  // the same number for ranks of one host, and for no others
  TransportChoice choice{Transport::kNccl};
};

using TensorPairs = std::vector<std::pair<Tensor, Tensor>>;  // from, to

class GpuLink final : public CommWatch::Link {
 public:
  // Collective over `hosts`, the ranks of the group over MPI. Builds the transports that `choice`
  // uses; NCCL also for ranks of different hosts.
  static std::shared_ptr<GpuLink> make(const Group& hosts, std::shared_ptr<GpuComm> comm,
                                       std::shared_ptr<const Stream> stream,
                                       const TransportChoice& choice);
  // Waits until the GPU is done with all operations. If an exception is passing, those in flight
  // are given up, as their peers may never come.
  ~GpuLink() override;
  GpuLink(const GpuLink&) = delete;
  GpuLink& operator=(const GpuLink&) = delete;

  // Whether it has peer copies, with ranks of this host.
  bool has_peer_copies() const { return copies_ != nullptr; }
  // Collective. Connects by NCCL too; the choice stays.
  void add_nccl();
  // Collective. From now on; transports that it does not use are dropped.
  void set_choice(const TransportChoice& choice);

  const std::shared_ptr<const Stream>& stream() const { return stream_; }
  const std::shared_ptr<const Gpu>& gpu() const { return comm_->gpu; }
  const std::shared_ptr<GpuComm>& comm() const { return comm_; }

  // NCCL takes one run of bytes: messages that it will carry and whose rows lie apart are replaced
  // by room for their rows. What is to be copied in front of the messages and behind them. Before
  // begin(), which orders the use of that memory.
  struct Packing {
    TensorPairs before, after;
  };
  Packing pack(std::vector<P2P>& batch) const;

  // An operation is begun with all its tensors, fed with messages and kernels, and ended. begin()
  // throws if anything has failed before.
  std::shared_ptr<GpuOperation> begin(std::string_view label, std::vector<Tensor> tensors);
  // Messages of this rank to itself. Long ones run beside what else the operation does until its
  // end.
  void copy_beside(const GpuOperation& operation, const TensorPairs& local);
  // Copies in the order of the operation.
  void copy(const TensorPairs& pairs);
  // Messages to and from other ranks of the group, in flight together.
  void exchange(const GpuOperation& operation, std::vector<P2P> batch) {
    exchange(choice_, operation, std::move(batch));
  }
  // The same by one transport, which the link must have, where the peers can be reached by it.
  void exchange_by(Transport transport, const GpuOperation& operation, std::vector<P2P> batch) {
    exchange(TransportChoice(transport), operation, std::move(batch));
  }
  Work end(std::shared_ptr<GpuOperation> operation);

  void inspect(const Stream& rescue) override;
  void release(const Stream& rescue) noexcept override;

 private:
  using Clock = std::chrono::steady_clock;

  GpuLink(const Group& hosts, std::shared_ptr<GpuComm> comm, std::shared_ptr<const Stream> stream,
          const TransportChoice& choice);
  void exchange(const TransportChoice& choice, const GpuOperation& operation,
                std::vector<P2P> batch);
  bool is_by_peer_copy(const TransportChoice& choice, const P2P& message) const;
  // What the operation on the GPU waits for.
  std::string missing(const Stream& rescue);

  const Group hosts_;
  const std::shared_ptr<GpuComm> comm_;
  const std::shared_ptr<const Stream> stream_;
  TransportChoice choice_;
  std::string others_;           // names the other ranks of the group
  std::vector<int> local_rank_;  // in copies_, of each rank of the group; -1: on another host
  std::shared_ptr<PeerCopies> copies_;
  std::shared_ptr<NcclCommunicator> nccl_;
  int64_t num_operations_ = 0;
  const Stream side_;  // for copies within the GPU
  Event side_end_;     // of those that the operation being enqueued has made there

  std::mutex mutex_;  // of all that follows
  std::deque<std::shared_ptr<const OperationProgress>> in_flight_;
  const OperationProgress* running_ = nullptr;  // the first, seen on the GPU
  Clock::time_point running_since_;
};

}  // namespace longship
