// Forward and backward of short micro-batches on one GPU as CUDA graphs, launched as a whole: on
// kernels of a few microseconds the GPU is otherwise done before the host has enqueued the next.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "data/batch.h"
#include "launch/config.pb.h"
#include "launch/model.h"
#include "launch/recent_graphs.h"
#include "parallel/group.h"

namespace longship {

struct StepGraphsOptions {
  int64_t most_tokens = 0;                                // of a micro-batch that becomes a graph
  std::function<void(const std::string& line)> say = {};  // of what a user should know
  RecentGraphsOptions kept = {};
};

// Micro-batches share a graph if their documents have the same lengths and if gradients are there
// already, or not, for both. One that comes for the second time runs in memory set apart for all
// graphs, and once it finds all its memory there, it is recorded as well; from then on its graph
// runs. That memory is ctx.memory's, and nothing in it outlives a micro-batch. Sums of gradients
// keep their places from step to step (Gradient::keep_place), which graphs rely on and look at.
// All of it gives the bits that it gives without graphs.
class StepGraphs {
 public:
  // For training in which nothing but the GPU of ctx takes part: see most_graph_tokens(). `ctx` and
  // `model` outlive this object.
  StepGraphs(Context& ctx, Model& model, StepGraphsOptions options);
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  // What forward_backward() in launch/micro_batch.h does and returns. The next call may overwrite
  // the result, behind all that is enqueued before it. If CUDA or a library refuses to record the
  // work, that is said, and there are no graphs from then on.
  Tensor forward_backward(const Batch& batch, double seed);

  // How many graphs were made, and how often one was launched.
  int64_t num_recorded() const { return num_recorded_; }
  int64_t num_launches() const { return num_launches_; }

 private:
  class Recorded;

  // Where the sums of gradients are or will be; empty while that may change for one of them.
  std::vector<int64_t> places() const;
  // forward_backward() in memory_, kernel by kernel; makes a graph of it if that had room.
  Tensor run_apart(const Batch& batch, double seed);
  void give_up(const std::string& reason);

  Context& ctx_;
  Model& model_;
  const StepGraphsOptions options_;
  bool gave_up_ = false;
  std::shared_ptr<Memory> memory_;  // in which the work of all graphs runs
  RecentGraphs<Recorded> graphs_;
  int64_t num_recorded_ = 0, num_launches_ = 0;
};

// Tokens of the longest micro-batch that pays as a graph; 0 where there are no graphs: where
// train.cuda_graphs is off, `ctx` has no GPU, or `world` has more than one rank or shares out
// parameters, so that forward and backward communicate.
int64_t most_graph_tokens(const Context& ctx, const config::Run& run, const Model& model,
                          const Group& world);

// Graphs for a run; null where there are none.
std::unique_ptr<StepGraphs> make_step_graphs(Context& ctx, const config::Run& run, Model& model,
                                             const Group& world,
                                             std::function<void(const std::string& line)> say);

}  // namespace longship
