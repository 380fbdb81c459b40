// Which transport carries a message between two GPUs, by its length.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace longship {

// Into the peer's memory, where that can be reached: by a kernel, which begins soon, or by the copy
// engines, which leave the multiprocessors alone.
enum class Transport { kPeerStores, kPeerCopies, kNccl };

// kMeasured: the fastest one for each length, of those that are possible. The others are for tests
// and experiments: that one for all messages, and an error where it is impossible.
enum class TransportWish { kMeasured, kPeerStores, kPeerCopies, kNccl };

class TransportChoice {
 public:
  struct Sample {
    int64_t message_bytes = 0;
    double peer_stores_s = std::numeric_limits<double>::infinity();
    double peer_copies_s = std::numeric_limits<double>::infinity();
    double nccl_s = std::numeric_limits<double>::infinity();
  };

  // One for all lengths.
  explicit TransportChoice(Transport transport) : ranges_{{0, transport}} {}
  // The fastest for each length; between two samples that disagree, they change over at the
  // geometric mean. `samples` in ascending order, at least one.
  static TransportChoice fastest(const std::vector<Sample>& samples);

  Transport of(int64_t message_bytes) const;
  bool uses(Transport transport) const;
  bool uses_peer_memory() const {
    return uses(Transport::kPeerStores) || uses(Transport::kPeerCopies);
  }
  // "peer copies from 0 B to 2 MiB, NCCL above"
  std::string text() const;

 private:
  std::vector<std::pair<int64_t, Transport>> ranges_;  // from which length on; ascending from 0
};

}  // namespace longship
