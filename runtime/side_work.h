// Work that an op starts ahead of its need.
#pragma once

#include <memory>

#include "runtime/error.h"
#include "runtime/gpu.h"

namespace longship {

// Runs on ctx.gpu->copy, behind what compute has got so far and beside what it gets from then on,
// until join(). The memory that it uses has to be kept until then; the destructor joins.
class SideWork {
 public:
  // enqueue(stream) enqueues it.
  template <class F>
  SideWork(const Context& ctx, const F& enqueue) : gpu_(ctx.gpu) {
    gpu_->copy->wait(gpu_->compute->record());
    enqueue(gpu_->copy->handle());
    end_ = gpu_->copy->record();
  }
  ~SideWork() {
    try {
      join();
    } catch (const Error&) {
      // The GPU is lost, and does no more work.
    }
  }
  SideWork(const SideWork&) = delete;
  SideWork& operator=(const SideWork&) = delete;

  // What is enqueued for compute from now on begins after it.
  void join() {
    if (gpu_ != nullptr) gpu_->compute->wait(end_);
    gpu_.reset();
  }

 private:
  std::shared_ptr<const Gpu> gpu_;  // null once joined
  Event end_;
};

}  // namespace longship
