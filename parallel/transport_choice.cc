#include "parallel/transport_choice.h"

#include <cmath>

#include "runtime/error.h"

namespace longship {
namespace {

const char* name_of(Transport transport) {
  return transport == Transport::kNccl ? "NCCL" : "peer copies";
}

std::string length_text(int64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB"};
  size_t unit = 0;
  auto value = static_cast<double>(bytes);
  while (value >= 1024 && unit + 1 < std::size(units)) value /= 1024, ++unit;
  return fmt::format("{:.3g} {}", value, units[unit]);
}

}  // namespace

TransportChoice TransportChoice::faster(const std::vector<Sample>& samples) {
  LONGSHIP_CHECK(!samples.empty(), "a choice without a measurement");
  const auto winner = [](const Sample& sample) {
    return sample.nccl_s < sample.peer_copies_s ? Transport::kNccl : Transport::kPeerCopies;
  };
  TransportChoice choice(winner(samples.front()));
  for (size_t i = 1; i < samples.size(); ++i) {
    if (winner(samples[i]) == winner(samples[i - 1])) continue;
    choice.changes_.push_back(
        std::llround(std::sqrt(static_cast<double>(samples[i - 1].message_bytes) *
                               static_cast<double>(samples[i].message_bytes))));
  }
  return choice;
}

Transport TransportChoice::of(int64_t message_bytes) const {
  Transport transport = first_;
  for (const int64_t change : changes_)
    if (message_bytes >= change) transport = other(transport);
  return transport;
}

bool TransportChoice::uses(Transport transport) const {
  return transport == first_ || !changes_.empty();
}

std::string TransportChoice::text() const {
  if (changes_.empty()) return fmt::format("{} for all messages", name_of(first_));
  std::string text;
  Transport transport = first_;
  int64_t begin = 0;
  for (const int64_t change : changes_) {
    text += fmt::format("{} from {} to {}, ", name_of(transport), length_text(begin),
                        length_text(change));
    transport = other(transport);
    begin = change;
  }
  return text + fmt::format("{} above", name_of(transport));
}

}  // namespace longship
