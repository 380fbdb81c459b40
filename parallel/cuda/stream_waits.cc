#include "parallel/cuda/stream_waits.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "runtime/cuda/cuda_error.h"

namespace longship {

void StreamWaits::count(Event since, std::shared_ptr<const Event> until) {
  std::lock_guard lock(mutex_);
  add_passed();  // so that they do not pile up
  spans_.push_back({std::move(since), std::move(until)});
}

void StreamWaits::HostLoop::look() {
  const auto now = std::chrono::steady_clock::now();
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
