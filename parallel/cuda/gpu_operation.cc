#include "parallel/cuda/gpu_operation.h"

namespace longship {

void GpuOperation::begin(std::vector<Tensor> tensors) {
  tensors_ = std::move(tensors);
  progress_->begin = on_.gpu->compute->record();
  on_.stream->wait(progress_->begin);
}

void GpuOperation::wait() {
  on_.failure->throw_if_set();
  if (tensors_.empty()) return;  // has waited
  if (!done()) {
    Event since = on_.gpu->compute->record_time();
    on_.gpu->compute->wait(progress_->end);
    on_.waits->count(std::move(since), {progress_, &progress_->end});
  }
  tensors_.clear();
}

GpuOperation::~GpuOperation() {
  for (const Tensor& tensor : tensors_) tensor.used_on(on_.stream);
}

}  // namespace longship
