// Messages between the GPUs of one host as copies into each other's memory: the receiver tells the
// sender an address through memory of the host, and the sender's GPU writes there, by a copy engine
// or, if that is chosen, by a kernel. The GPUs order this among themselves by words in each other's
// memory, for which streams wait without a kernel.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "parallel/cuda/comm_failure.h"
#include "parallel/cuda/cuda_driver.h"
#include "parallel/cuda/host_segment.h"
#include "parallel/cuda/peer_memory.h"
#include "parallel/group.h"
#include "parallel/transport_choice.h"
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
  };

  // Collective. Throws Error on every rank if one cannot reach another's memory.
  explicit PeerCopies(Setup setup);

  // What goes to and comes from one peer in an exchange.
  struct Lane {
    std::vector<const Tensor*> sends, receives;
    std::vector<CudaRowCopy> copies;  // of the sends, into the peer's memory
    size_t num_posted = 0;            // of the receives
  };
  using Lanes = std::vector<Lane>;  // by peer

  // Begins an exchange of messages, none of them empty or to this rank itself; the messages of a
  // pair match in their order. Adds to `words` that the peers may write what is received here: for
  // a stream behind whose work they may. `batch` stays until send() is done.
  Lanes announce(const std::vector<P2P>& batch, WordOperations& words);
  // Enqueues what is sent on `stream`, always the same one, behind `words`. What then is in `words`
  // is the end of the exchange: the stream waits for what it receives. Returns once every peer has
  // announced its receives; throws Error(kTimeout) naming those that do not.
  void send(const OperationName& operation, Lanes lanes, const TransportChoice& choice,
            WordOperations& words, const Stream& stream);

  // Makes the stream pass all waits, also those for peers that are gone. What is received after
  // that means nothing: for ending a job.
  void release(const Stream& rescue) noexcept;
  // Who has not sent or taken what the GPU waits for now, or is empty. Asks the GPU.
  std::string missing(const Stream& rescue) const;

 private:
  struct Mailbox;
  // Words that this rank's GPU waits for, in its own memory, one of each kind per peer.
  enum WordKind { kReady, kArrived, kNumWordKinds };
  uint32_t* own_word(WordKind kind, int peer) const;
  // Where the peer's GPU waits for this rank.
  uint32_t* peer_word(WordKind kind, int peer) const;
  Mailbox& mailbox(int from, int to) const;

  void rendezvous(const OperationName& operation, Lanes& lanes);
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
