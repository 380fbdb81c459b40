#include "launch/step_batches.h"

#include <utility>

#include "runtime/device_copy.h"
#include "runtime/gpu.h"

namespace longship {
namespace {

// On the stream for copies; the host does not wait, as batches are built in pinned memory.
Tensor start_upload(const Context& ctx, const Tensor& tensor) {
  const Tensor copy = ctx.empty(tensor.shape(), tensor.dtype());
  copy_async(copy, tensor, ctx.gpu->copy);
  return copy;
}

}  // namespace

void StepBatches::fetch() {
  for (int64_t i = 0; i < num_micro_batches_; ++i) {
    Batch batch = loader_.next();
    if (ctx_.gpu != nullptr)
      for (Tensor* tensor : {&batch.tokens_T, &batch.targets_T, &batch.loss_weights_T})
        *tensor = start_upload(ctx_, *tensor);
    ready_.push_back(std::move(batch));
  }
  if (ctx_.gpu != nullptr) copied_ = ctx_.gpu->copy->record();
}

void StepBatches::prepare() {
  if (ctx_.gpu != nullptr && ready_.empty()) fetch();
}

std::vector<Batch> StepBatches::take() {
  if (ready_.empty()) fetch();
  if (ctx_.gpu != nullptr) ctx_.gpu->compute->wait(copied_);
  return std::exchange(ready_, {});
}

}  // namespace longship
