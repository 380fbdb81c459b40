#include "runtime/cuda/stream.h"

#include <cuda_runtime_api.h>

#include "runtime/cuda/cuda_error.h"
#include "runtime/error.h"

namespace longship {

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

// CUDA keeps what an event means to those who wait for it until they are done.
void Event::Destroy::operator()(EventHandle event) const {
  cudaEventDestroy(event);
}

Stream::Stream(Device gpu, StreamPriority priority) : device_(gpu) {
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

Event Stream::record(unsigned flags) const {
  const StreamHandle stream = handle();
  EventHandle handle = nullptr;
  check_cuda(cudaEventCreateWithFlags(&handle, flags), "create an event");
  Event event;
  event.handle_.reset(handle);
  event.stream_ = stream;
  event.ordinal_ = ++num_events_;
  check_cuda(cudaEventRecord(handle, stream), "record an event");
  return event;
}

Event Stream::record() const {
  return record(cudaEventDisableTiming);
}

Event Stream::record_time() const {
  return record(cudaEventDefault);
}

void Stream::wait(const Event& event) const {
  if (event.handle_ != nullptr)
    check_cuda(cudaStreamWaitEvent(handle(), event.handle_.get(), 0), "wait for an event");
}

void Stream::synchronize() const {
  check_cuda(cudaStreamSynchronize(handle()), "finish the work of a stream");
}

}  // namespace longship
