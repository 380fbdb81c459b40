#include "parallel/cuda/stream_waits.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "runtime/cuda/cuda_error.h"

namespace longship {

void StreamWaits::count(Event since, std::shared_ptr<const Event> until) {
  // Asking for events takes as long as a short message: that is left to take_s(), as long as it is
  // called now and then.
  constexpr size_t kMostSpans = 4096;
  std::lock_guard lock(mutex_);
  if (spans_.size() >= kMostSpans) add_passed();
  spans_.push_back({std::move(since), std::move(until)});
}

void StreamWaits::HostLoop::look() {
  constexpr auto kInterval = std::chrono::microseconds(10);
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < kInterval) return;
  const double seconds = std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  const cudaError_t status = cudaStreamQuery(waits_.compute().handle());
  if (status == cudaErrorNotReady) return;
  check_cuda(status, "ask for the work of a stream");
  std::lock_guard lock(waits_.mutex_);
  waits_.passed_s_ += seconds;
}

double StreamWaits::take_s() {
  std::lock_guard lock(mutex_);
  add_passed();
  return std::exchange(passed_s_, 0);
}

void StreamWaits::add_passed() {
  for (; !spans_.empty(); spans_.pop_front()) {
    const Span& span = spans_.front();
    if (!span.since.has_passed() || !span.until->has_passed()) return;
    passed_s_ += 1e-3 * std::max(0.0, span.until->milliseconds_since(span.since));
  }
}

}  // namespace longship
