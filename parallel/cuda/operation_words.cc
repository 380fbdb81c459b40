#include "parallel/cuda/operation_words.h"

#include "runtime/cuda/cuda_copy.h"

namespace longship {

OperationWords::OperationWords(const Gpu& gpu)
    : words_(Tensor::zeros(gpu.memory, {kNumKinds}, DType::kI32)) {
  gpu.compute->synchronize();  // the zeros are there before any stream waits
}

OperationWords::Progress OperationWords::read(const Stream& query) const {
  Progress progress;
  enqueue_copy(progress.words, words_.address(), words_.num_bytes(), query.handle());
  query.synchronize();
  return progress;
}

}  // namespace longship
