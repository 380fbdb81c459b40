// Messages between the GPUs of one host as copies by the copy engines, without a kernel: the
// receiver tells the sender an address through memory of the host, and the sender's GPU writes
// there. The GPUs order this among themselves by words in each other's memory.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "parallel/cuda/comm_failure.h"
#include "parallel/cuda/host_segment.h"
#include "parallel/cuda/peer_memory.h"
#include "parallel/cuda/stream_waits.h"
#include "parallel/group.h"
#include "runtime/cuda/cuda_copy.h"
#include "runtime/gpu.h"

namespace longship {

class PeerCopies {
 public:
  struct Setup {
    Group hosts = Group::self();   // the ranks, all of one host, over MPI
    std::vector<int> world_ranks;  // of each
    std::shared_ptr<const Gpu> gpu;
    std::shared_ptr<PeerMemory> memory;
    std::shared_ptr<CommFailure> failure;
    std::shared_ptr<StreamWaits> waits;
  };

  // Collective. Throws Error on every rank if one cannot reach another's memory.
  explicit PeerCopies(Setup setup);

  // Enqueues messages, none of them empty or to this rank itself, on `stream`, always the same one.
  // Returns once every peer has made its call, which tells where its buffers are; the messages of a
  // pair match in their order. Throws Error(kTimeout) naming peers that do not make their call.
  void exchange(const std::string& operation, const std::vector<P2P>& batch, const Stream& stream);

  // Makes the stream pass all waits, also those for peers that are gone. What is received after
  // that means nothing: for ending a job.
  void release(const Stream& rescue) noexcept;
  // Who has not sent or taken what the GPU waits for now, or is empty. Asks the GPU.
  std::string missing(const Stream& rescue) const;

 private:
  struct Mailbox;
  struct Lane {  // what goes to and comes from one peer
    std::vector<const Tensor*> sends, receives;
    std::vector<CudaRowCopy> copies;  // of the sends, into the peer's memory
    size_t num_posted = 0;            // of the receives
  };
  // Words that this rank's GPU waits for, in its own memory, one of each kind per peer.
  enum WordKind { kReady, kArrived, kNumWordKinds };
  uint32_t* own_word(WordKind kind, int peer) const;
  // Where the peer's GPU waits for this rank.
  uint32_t* peer_word(WordKind kind, int peer) const;
  Mailbox& mailbox(int from, int to) const;

  void rendezvous(const std::string& operation, std::vector<Lane>& lanes);
  bool advance(int peer, Lane& lane);
  std::string rank_name(int peer) const;

  const Setup setup_;
  const int rank_, size_;
  HostSegment segment_;
  Tensor words_;                    // [kNumWordKinds, size], of the GPU
  std::vector<std::byte*> mapped_;  // each peer's words
  // Messages to each peer so far, and from each. Read by the thread that watches, too.
  std::vector<std::atomic<uint64_t>> num_sent_, num_received_;
};

}  // namespace longship
