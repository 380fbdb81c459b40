// What has gone wrong with the messages between GPUs of this rank, found by any thread and thrown
// to the one that computes.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <string>

#include "runtime/error.h"

namespace longship {

class CommFailure {
 public:
  // `self` names this rank and its GPU in messages.
  CommFailure(std::string self, double timeout_s) : self_(std::move(self)), timeout_s_(timeout_s) {}

  const std::string& self() const { return self_; }
  double timeout_s() const { return timeout_s_.load(std::memory_order_relaxed); }
  void set_timeout(double timeout_s) { timeout_s_.store(timeout_s, std::memory_order_relaxed); }

  // The first one stays.
  void set(std::exception_ptr error) {
    std::lock_guard lock(mutex_);
    if (error_ == nullptr) error_ = std::move(error);
    is_set_.store(true, std::memory_order_release);
  }
  bool is_set() const { return is_set_.load(std::memory_order_acquire); }
  void throw_if_set() const {
    if (!is_set()) return;
    std::lock_guard lock(mutex_);
    std::rethrow_exception(error_);
  }

  // `operation` such as "`ring.fwd` (operation 3 of a group of 2)"; `found` says who is missing.
  Error timeout(const std::string& operation, std::string found) const {
    return Error(
        ErrorCode::kTimeout,
        {.what = fmt::format("communication {} did not end on {}", operation, self_),
         .expected = fmt::format("all messages within {} s", timeout_s()),
         .found = std::move(found),
         .next = "look at what the ranks named here printed last: they failed, are slower than "
                 "the deadline allows, or run another configuration"});
  }

 private:
  const std::string self_;
  std::atomic<double> timeout_s_;
  mutable std::mutex mutex_;
  std::atomic<bool> is_set_ = false;
  std::exception_ptr error_;
};

}  // namespace longship
