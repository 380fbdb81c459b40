#include "runtime/cuda/stream.h"

#include <cuda_runtime_api.h>

#include <mutex>
#include <vector>

#include "runtime/cuda/cuda_error.h"
#include "runtime/error.h"

namespace longship {

// CUDA's events of one GPU that nobody uses at present. For any thread.
class EventPool {
 public:
  explicit EventPool(unsigned flags) : flags_(flags) {}
  ~EventPool() {
    for (const EventHandle event : free_) cudaEventDestroy(event);
  }
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  // The GPU is this thread's current one.
  EventHandle take() {
    {
      std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        const EventHandle event = free_.back();
        free_.pop_back();
        return event;
      }
    }
    EventHandle event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, flags_), "create an event");
    return event;
  }
  void give(EventHandle event) {
    std::lock_guard lock(mutex_);
    free_.push_back(event);
  }

 private:
  const unsigned flags_;
  std::mutex mutex_;
  std::vector<EventHandle> free_;
};

bool Event::has_passed() const {
  if (handle_ == nullptr) return true;
  const cudaError_t status = cudaEventQuery(handle_.get());
  if (status != cudaErrorNotReady) check_cuda(status, "ask for an event");
  return status == cudaSuccess;
}

void Event::synchronize() const {
  if (handle_ != nullptr) check_cuda(cudaEventSynchronize(handle_.get()), "wait for an event");
}

double Event::milliseconds_since(const Event& start) const {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, start.handle_.get(), handle_.get()),
             "read the time between two events");
  return milliseconds;
}

// It may be recorded anew at once: CUDA keeps what an event meant to those who wait for it.
void Event::GiveBack::operator()(EventHandle event) const {
  pool->give(event);
}

Stream::Stream(Device gpu, StreamPriority priority)
    : device_(gpu),
      plain_events_(std::make_shared<EventPool>(cudaEventDisableTiming)),
      timed_events_(std::make_shared<EventPool>(cudaEventDefault)) {
  LONGSHIP_CHECK(gpu.kind == DeviceKind::kCuda, "a stream of {}", device_name(gpu));
  check_cuda(cudaSetDevice(gpu.index), "use " + device_name(gpu));
  int least = 0, greatest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "read stream priorities");
  check_cuda(cudaStreamCreateWithPriority(&handle_, cudaStreamNonBlocking,
                                          priority == StreamPriority::kHigh ? greatest : least),
             "create a stream");
}

Stream::~Stream() {
  cudaStreamDestroy(handle_);
}

StreamHandle Stream::handle() const {
  const cudaError_t status = cudaSetDevice(device_.index);
  // Many times per operation: the name is made for an error only.
  if (status != cudaSuccess) check_cuda(status, "use " + device_name(device_));
  return handle_;
}

Event Stream::record(const std::shared_ptr<EventPool>& pool) const {
  const StreamHandle stream = handle();
  Event event;
  event.handle_ = {pool->take(), Event::GiveBack{pool}};
  event.stream_ = stream;
  event.ordinal_ = ++num_events_;
  check_cuda(cudaEventRecord(event.handle_.get(), stream), "record an event");
  return event;
}

Event Stream::record() const {
  return record(plain_events_);
}

Event Stream::record_time() const {
  return record(timed_events_);
}

void Stream::wait(const Event& event) const {
  if (event.handle_ != nullptr)
    check_cuda(cudaStreamWaitEvent(handle(), event.handle_.get(), 0), "wait for an event");
}

void Stream::synchronize() const {
  check_cuda(cudaStreamSynchronize(handle()), "finish the work of a stream");
}

}  // namespace longship
