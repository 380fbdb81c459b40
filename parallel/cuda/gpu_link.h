// The GPUs of one group: its stream, its transports, and the operations in flight.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
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

  const std::shared_ptr<const Gpu>& gpu() const { return comm_->gpu; }
  const std::shared_ptr<GpuComm>& comm() const { return comm_; }

  // An operation is begun with its first messages, fed with kernels and more messages, and ended.
  struct Start {
    std::string_view label;
    std::vector<Tensor> tensors;  // all that it uses, but for the messages
    TensorPairs local;            // messages of this rank to itself
    std::vector<P2P> batch;       // to and from other ranks of the group, in flight together
  };
  // Throws if anything has failed before.
  std::shared_ptr<GpuOperation> begin(Start start) { return begin(choice_, std::move(start)); }
  // The same by one transport, which the link must have, where the peers can be reached by it.
  std::shared_ptr<GpuOperation> begin_by(Transport transport, Start start) {
    return begin(TransportChoice(transport), std::move(start));
  }
  // More messages, of contiguous tensors, behind what is on stream().
  void exchange(const GpuOperation& operation, std::vector<P2P> batch);
  Work end(std::shared_ptr<GpuOperation> operation);

  // Behind all that was enqueued for the group.
  const Stream& stream();

  void inspect(const Stream& rescue) override;
  void release(const Stream& rescue) noexcept override;

 private:
  using Clock = std::chrono::steady_clock;

  GpuLink(const Group& hosts, std::shared_ptr<GpuComm> comm, std::shared_ptr<const Stream> stream,
          const TransportChoice& choice);
  // Messages by the transport that carries them, ranks as that counts them.
  struct Routes {
    std::vector<P2P> peer, nccl;
  };
  // NCCL takes one run of bytes: rows that lie apart are copied to packed tensors in front of the
  // messages, or from them behind.
  struct Packing {
    TensorPairs before, after;
  };

  std::shared_ptr<GpuOperation> begin(const TransportChoice& choice, Start start);
  Routes routes_of(const TransportChoice& choice, std::vector<P2P> batch) const;
  Packing pack(std::vector<P2P>& batch) const;
  // Short ones on stream(), long ones beside what else the operation does until its end.
  void copy_beside(const GpuOperation& operation, const TensorPairs& local);
  void copy(const TensorPairs& pairs);
  // What the operation on the GPU waits for.
  std::string missing(const Stream& rescue);

  const Group hosts_;
  const std::shared_ptr<GpuComm> comm_;
  const std::shared_ptr<CommStream> on_;
  TransportChoice choice_;
  std::string others_;           // names the other ranks of the group
  std::vector<int> local_rank_;  // in copies_, of each rank of the group; -1: on another host
  std::shared_ptr<PeerCopies> copies_;
  std::shared_ptr<NcclCommunicator> nccl_;
  int64_t num_operations_ = 0;
  WordOperations words_;  // what the stream is to do next, not enqueued yet: many take one call
  const Stream side_;     // for copies within the GPU
  std::optional<Event> side_end_;  // of those that the operation being enqueued has made there

  std::mutex mutex_;  // of all that follows
  std::deque<OperationName> in_flight_;
  int64_t running_ = 0;  // the first, seen on the GPU
  Clock::time_point running_since_;
};

}  // namespace longship
