// Which transport carries a message between two GPUs, by its length.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longship {

enum class Transport { kPeerCopies, kNccl };

// kMeasured: the faster one for each length, where both are possible. The others are for tests and
// experiments: that one for all messages, and an error where it is impossible.
enum class TransportWish { kMeasured, kPeerCopies, kNccl };

class TransportChoice {
 public:
  struct Sample {
    int64_t message_bytes = 0;
    double peer_copies_s = 0;
    double nccl_s = 0;
  };

  // One for all lengths.
  explicit TransportChoice(Transport transport) : first_(transport) {}
  // The faster for each length; between two samples that disagree, they change over at the
  // geometric mean. `samples` in ascending order, at least one.
  static TransportChoice faster(const std::vector<Sample>& samples);

  Transport of(int64_t message_bytes) const;
  bool uses(Transport transport) const;
  // "peer copies from 0 B to 2 MiB, NCCL above"
  std::string text() const;

 private:
  static Transport other(Transport transport) {
    return transport == Transport::kNccl ? Transport::kPeerCopies : Transport::kNccl;
  }

  Transport first_;               // of the shortest messages
  std::vector<int64_t> changes_;  // lengths from which on it is the other one, ascending
};

}  // namespace longship
