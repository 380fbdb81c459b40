// CommRecorder: the counters behind CommStats, shared by all groups split from one parent.
#pragma once

#include <mutex>
#include <string_view>

#include "parallel/group.h"

namespace longship {

class CommRecorder {
 public:
  // One operation of this label, which sends `sent_bytes` to other ranks.
  void record_call(std::string_view label, int64_t sent_bytes);
  void record_wait(double seconds);
  void record_stream_wait(double seconds);
  CommStats snapshot() const;
  void reset();

 private:
  mutable std::mutex mutex_;
  CommStats stats_;
};

}  // namespace longship
