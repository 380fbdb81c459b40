// Streams of a GPU and the events that order them. Nothing here makes the host wait, except the
// functions named synchronize().
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "runtime/cuda/handles.h"
#include "runtime/device.h"

namespace longship {

class EventPool;

// A point in the order of one stream: what was enqueued before Stream::record(). Empty when
// default-constructed, and then it has always passed.
class Event {
 public:
  Event() = default;

  bool has_passed() const;
  // The host waits until it has passed.
  void synchronize() const;
  // Time from `start` to this event. Both were recorded by record_time() and have passed.
  double milliseconds_since(const Event& start) const;

  bool is_on_stream_of(const Event& other) const { return stream_ == other.stream_; }
  // Of two events of one stream.
  bool is_before(const Event& other) const { return ordinal_ < other.ordinal_; }

 private:
  friend class Stream;
  struct GiveBack {
    std::shared_ptr<EventPool> pool;
    void operator()(EventHandle event) const;
  };

  std::unique_ptr<CUevent_st, GiveBack> handle_;
  StreamHandle stream_ = nullptr;
  int64_t ordinal_ = 0;
};

enum class StreamPriority { kNormal, kHigh };

// Work enqueued on a stream runs in order; streams run side by side unless one waits for an event
// of the other. Enqueuing is const: a stream holds no state that its users could see.
class Stream {
 public:
  // Throws Error(kConfig) if there is no such GPU or the build has no CUDA.
  explicit Stream(Device gpu, StreamPriority priority = StreamPriority::kNormal);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  // For launches and CUDA's libraries; makes device() the current one of this thread.
  StreamHandle handle() const;

  Event record() const;
  // The same, with a time stamp; it costs a little more.
  Event record_time() const;
  // What is enqueued here from now on begins after `event`, whose stream may be of another GPU.
  void wait(const Event& event) const;
  // The host waits until all that was enqueued is done. Throws what went wrong on the GPU.
  void synchronize() const;

 private:
  Event record(const std::shared_ptr<EventPool>& pool) const;

  Device device_;
  StreamHandle handle_ = nullptr;
  // Events are many, and making or destroying one takes the driver longer than recording it.
  std::shared_ptr<EventPool> plain_events_, timed_events_;
  mutable std::atomic<int64_t> num_events_ = 0;
};

}  // namespace longship
