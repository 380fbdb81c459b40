// How long the compute stream of a GPU stands still for communication. Nothing here makes the host
// wait: what has been counted is known once the GPU has come past it.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>

#include "runtime/cuda/stream.h"

namespace longship {

// For any thread.
class StreamWaits {
 public:
  explicit StreamWaits(std::shared_ptr<const Stream> compute) : compute_(std::move(compute)) {}

  const Stream& compute() const { return *compute_; }

  // Counts the time from `since` to `until`, or nothing if `until` passes first. Both are of
  // record_time(): `since` of the compute stream, so that it passes when the stream has done what
  // it held then; `until` of what the stream has been told to wait for next. The few microseconds
  // in which the stream starts again are not in it.
  void count(Event since, std::shared_ptr<const Event> until);

  // A loop in which the host waits for other ranks and enqueues nothing: counts the time for which
  // the stream has run out of work.
  class HostLoop {
   public:
    explicit HostLoop(StreamWaits& waits) : waits_(waits) {}
    // In every turn of the loop; asks the GPU now and then.
    void look();

   private:
    StreamWaits& waits_;
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  };

  // Seconds of what has become known since the last call.
  double take_s();

 private:
  struct Span {
    Event since;
    std::shared_ptr<const Event> until;
  };

  void add_passed();  // with mutex_ held

  const std::shared_ptr<const Stream> compute_;
  std::mutex mutex_;
  std::deque<Span> spans_;  // in the order of the stream
  double passed_s_ = 0;
};

}  // namespace longship
