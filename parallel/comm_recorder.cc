#include "parallel/comm_recorder.h"

namespace longship {

int64_t CommStats::sent_bytes(std::string_view label) const {
  const auto it = by_label.find(label);
  return it == by_label.end() ? 0 : it->second.sent_bytes;
}

int64_t CommStats::total_sent_bytes() const {
  int64_t total = 0;
  for (const auto& [label, entry] : by_label) total += entry.sent_bytes;
  return total;
}

void CommRecorder::record_call(std::string_view label, int64_t sent_bytes) {
  std::lock_guard lock(mutex_);
  auto it = stats_.by_label.find(label);
  if (it == stats_.by_label.end())
    it = stats_.by_label.emplace(std::string(label), CommStats::Entry{}).first;
  ++it->second.num_calls;
  it->second.sent_bytes += sent_bytes;
}

void CommRecorder::record_wait(double seconds) {
  std::lock_guard lock(mutex_);
  stats_.wait_s += seconds;
}

void CommRecorder::record_stream_wait(double seconds) {
  std::lock_guard lock(mutex_);
  stats_.stream_wait_s += seconds;
}

CommStats CommRecorder::snapshot() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void CommRecorder::reset() {
  std::lock_guard lock(mutex_);
  stats_ = {};
}

}  // namespace longship
