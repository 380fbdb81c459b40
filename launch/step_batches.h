// The micro-batches of each step, where the model runs. On a GPU those of the next step get there
// while the GPU works on this one.
#pragma once

#include <vector>

#include "data/batch_loader.h"
#include "runtime/cuda/stream.h"

namespace longship {

class StepBatches {
 public:
  // Takes `num_micro_batches` of `loader` for each step, in order; both outlive this.
  StepBatches(const Context& ctx, BatchLoader& loader, int64_t num_micro_batches)
      : ctx_(ctx), loader_(loader), num_micro_batches_(num_micro_batches) {}

  // Those of the next step. On a GPU, what is enqueued for compute from now on may use them.
  std::vector<Batch> take();
  // Gets those of the next step and starts their copies, behind what the GPU has to do so far, and
  // beside what follows. On the CPU there is nothing to prepare.
  void prepare();

 private:
  void fetch();

  const Context& ctx_;
  BatchLoader& loader_;
  int64_t num_micro_batches_;
  std::vector<Batch> ready_;
  Event copied_;
};

}  // namespace longship
