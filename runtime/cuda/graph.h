// Work of a GPU that is recorded once and then launched as a whole, any number of times, without
// gaps between its kernels.
#pragma once

#include <functional>
#include <memory>

#include "runtime/cuda/stream.h"

namespace longship {

// Every launch does what was recorded, down to the addresses and numbers that kernels were given:
// who records it keeps all memory that it reads or writes, and puts what changes from launch to
// launch there.
class Graph {
 public:
  // Records what enqueue() enqueues on `stream`; none of that runs. Meanwhile this thread may not
  // make the host wait, nor ask for memory of a GPU, for pinned memory or whether an event has
  // passed, and other streams may only be waited for if they take part. Throws what enqueue()
  // throws, or Error naming the GPU and what CUDA refused; `stream` is then as it was before.
  Graph(const Stream& stream, const std::function<void()>& enqueue);

  // On a stream of the same GPU.
  void launch(const Stream& stream) const;

 private:
  struct Destroy {
    void operator()(GraphHandle graph) const;
  };
  std::unique_ptr<CUgraphExec_st, Destroy> handle_;
};

}  // namespace longship
