// One asynchronous operation between GPUs, as the Work that a caller waits for.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "parallel/cuda/comm_failure.h"
#include "parallel/cuda/operation_words.h"
#include "parallel/group.h"
#include "runtime/gpu.h"

namespace longship {

// What a group's operations run on.
struct CommStream {
  CommStream(std::shared_ptr<const Gpu> on_gpu, std::shared_ptr<const Stream> of_group,
             std::shared_ptr<const Stream> without_waits, std::shared_ptr<CommFailure> of_rank)
      : gpu(std::move(on_gpu)),
        stream(std::move(of_group)),
        query(std::move(without_waits)),
        failure(std::move(of_rank)),
        words(*gpu) {}

  const std::shared_ptr<const Gpu> gpu;
  const std::shared_ptr<const Stream> stream;
  const std::shared_ptr<const Stream> query;  // waits for nobody
  const std::shared_ptr<CommFailure> failure;
  const OperationWords words;
  std::atomic<int64_t> last_waited = 0;  // of the operations that the compute stream waits for
};

// Its work is enqueued on the group's stream, behind what the compute stream held when it began.
// Tensors are kept until the compute stream has been told to wait: after that, its own order keeps
// their memory from being used too early. An operation that nobody waits for leaves its tensors to
// Tensor::used_on().
class GpuOperation final : public Work::State {
 public:
  GpuOperation(std::shared_ptr<CommStream> on, OperationName name, std::vector<Tensor> tensors)
      : on_(std::move(on)), name_(std::move(name)), tensors_(std::move(tensors)) {}
  ~GpuOperation() override;

  const OperationName& name() const { return name_; }
  int64_t number() const { return name_.number; }

  void wait() override;
  bool done() override;

 private:
  const std::shared_ptr<CommStream> on_;
  const OperationName name_;
  std::vector<Tensor> tensors_;
};

}  // namespace longship
