// Holds a stream until a test lets it go on, so that orders can be proved instead of timed.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <semaphore>

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/stream.h"

namespace longship::testing {

// What is enqueued on the stream after this was made begins when the gate opens, at the latest with
// its end. While it is closed, do not ask the GPU for memory: that would wait for ever.
class StreamGate {
 public:
  explicit StreamGate(const Stream& stream) {
    auto wait = [](void* semaphore) { static_cast<std::binary_semaphore*>(semaphore)->acquire(); };
    check_cuda(cudaLaunchHostFunc(stream.handle(), wait, semaphore_.get()), "close a gate");
    passed_ = stream.record();
  }
  ~StreamGate() { open(); }
  StreamGate(const StreamGate&) = delete;
  StreamGate& operator=(const StreamGate&) = delete;

  void open() {
    if (open_) return;
    open_ = true;
    semaphore_->release();
    passed_.synchronize();  // the semaphore is used until then
  }

 private:
  std::unique_ptr<std::binary_semaphore> semaphore_ = std::make_unique<std::binary_semaphore>(0);
  Event passed_;
  bool open_ = false;
};

}  // namespace longship::testing
