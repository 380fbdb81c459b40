#include "parallel/cuda/comm_watch.h"

#include <chrono>

namespace longship {
namespace {

constexpr auto kPeriod = std::chrono::milliseconds(20);

}  // namespace

CommWatch::CommWatch(std::shared_ptr<const Gpu> gpu, std::shared_ptr<CommFailure> failure)
    : gpu_(std::move(gpu)),
      failure_(std::move(failure)),
      rescue_(gpu_->device),
      thread_([this] { loop(); }) {}

CommWatch::~CommWatch() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CommWatch::add(Link* link) {
  std::lock_guard lock(mutex_);
  links_.push_back(link);
}

void CommWatch::remove(Link* link) {
  std::lock_guard lock(mutex_);
  std::erase(links_, link);
}

void CommWatch::loop() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kPeriod, [this] { return ending_; })) look();
}

void CommWatch::look() {
  try {
    rescue_.handle();  // makes the GPU the current one of this thread
    if (!failure_->is_set())
      for (Link* link : links_) link->inspect(rescue_);
  } catch (const Error&) {
    failure_->set(std::current_exception());
  }
  if (!failure_->is_set()) return;
  for (Link* link : links_) link->release(rescue_);
}

}  // namespace longship
