// One asynchronous operation between GPUs, as the Work that a caller waits for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parallel/cuda/comm_failure.h"
#include "parallel/cuda/stream_waits.h"
#include "parallel/group.h"
#include "runtime/gpu.h"

namespace longship {

// What a group's operations run on.
struct CommStream {
  std::shared_ptr<const Gpu> gpu;
  std::shared_ptr<const Stream> stream;
  std::shared_ptr<CommFailure> failure;
  std::shared_ptr<StreamWaits> waits;
};

// How far the GPU is with an operation. For any thread.
struct OperationProgress {
  std::string name;  // "`ring.fwd` (operation 3 of a group of 2)"
  Event begin, end;  // `end` with a time stamp
};

// Between begin() and end() its work is enqueued on the communication stream, behind what the
// compute stream held at begin(). Tensors are kept until the compute stream has been told to wait:
// after that, its own order keeps their memory from being used too early. An operation that nobody
// waits for leaves its tensors to Tensor::used_on(). How long the compute stream stands still in a
// wait is counted.
class GpuOperation final : public Work::State {
 public:
  GpuOperation(CommStream on, std::string name) : on_(std::move(on)) {
    progress_->name = std::move(name);
  }
  ~GpuOperation() override;

  void begin(std::vector<Tensor> tensors);
  void end() { progress_->end = on_.stream->record_time(); }

  const std::string& name() const { return progress_->name; }
  // Constant after end().
  std::shared_ptr<const OperationProgress> progress() const { return progress_; }

  void wait() override;
  bool done() override { return progress_->end.has_passed(); }

 private:
  const CommStream on_;
  std::vector<Tensor> tensors_;
  std::shared_ptr<OperationProgress> progress_ = std::make_shared<OperationProgress>();
};

}  // namespace longship
