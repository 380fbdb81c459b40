#include "parallel/transport_choice.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"

namespace longship {
namespace {

const char* name_of(Transport transport) {
  switch (transport) {
    case Transport::kPeerStores:
      return "peer stores";
    case Transport::kPeerCopies:
      return "peer copies";
    case Transport::kNccl:
      return "NCCL";
  }
  return "";
}

// The copy engines, where two are as fast: they leave the multiprocessors alone.
Transport winner(const TransportChoice::Sample& sample) {
  if (sample.peer_copies_s <= std::min(sample.peer_stores_s, sample.nccl_s))
    return Transport::kPeerCopies;
  return sample.peer_stores_s < sample.nccl_s ? Transport::kPeerStores : Transport::kNccl;
}

std::string length_text(int64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB"};
  size_t unit = 0;
  auto value = static_cast<double>(bytes);
  while (value >= 1024 && unit + 1 < std::size(units)) value /= 1024, ++unit;
  return fmt::format("{:.3g} {}", value, units[unit]);
}

}  // namespace

TransportChoice TransportChoice::fastest(const std::vector<Sample>& samples) {
  LONGSHIP_CHECK(!samples.empty(), "a choice without a measurement");
  TransportChoice choice(winner(samples.front()));
  for (size_t i = 1; i < samples.size(); ++i) {
    const Transport transport = winner(samples[i]);
    if (transport == choice.ranges_.back().second) continue;
    const double mean = std::sqrt(static_cast<double>(samples[i - 1].message_bytes) *
                                  static_cast<double>(samples[i].message_bytes));
    choice.ranges_.emplace_back(std::llround(mean), transport);
  }
  return choice;
}

Transport TransportChoice::of(int64_t message_bytes) const {
  Transport transport = ranges_.front().second;
  for (const auto& [begin, other] : ranges_)
    if (message_bytes >= begin) transport = other;
  return transport;
}

bool TransportChoice::uses(Transport transport) const {
  return std::ranges::any_of(ranges_, [&](const auto& range) { return range.second == transport; });
}

std::string TransportChoice::text() const {
  if (ranges_.size() == 1) return fmt::format("{} for all messages", name_of(ranges_[0].second));
  std::string text;
  for (size_t i = 0; i + 1 < ranges_.size(); ++i)
    text += fmt::format("{} from {} to {}, ", name_of(ranges_[i].second),
                        length_text(ranges_[i].first), length_text(ranges_[i + 1].first));
  return text + fmt::format("{} above", name_of(ranges_.back().second));
}

}  // namespace longship
