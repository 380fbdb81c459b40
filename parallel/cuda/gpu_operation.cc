#include "parallel/cuda/gpu_operation.h"

namespace longship {

void GpuOperation::wait() {
  on_->failure->throw_if_set();
  if (tensors_.empty()) return;  // has waited
  // To wait for a later one of the group is to wait for this one.
  if (on_->last_waited.load(std::memory_order_acquire) < number()) {
    WordOperations words;
    on_->words.wait(words, OperationWords::kEnded, number());
    words.enqueue(on_->gpu->compute->handle());
    on_->last_waited.store(number(), std::memory_order_release);
  }
  tensors_.clear();
}

bool GpuOperation::done() {
  return on_->words.read(*on_->query).has_come(OperationWords::kEnded, number());
}

GpuOperation::~GpuOperation() {
  for (const Tensor& tensor : tensors_) tensor.used_on(on_->stream);
}

}  // namespace longship
