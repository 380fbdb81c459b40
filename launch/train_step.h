// One optimizer step: forward and backward over the micro-batches of this rank, gradients summed
// over all ranks, the finite check, clipping, and the update.
#pragma once

#include <functional>
#include <span>

#include "data/batch.h"
#include "launch/model.h"
#include "launch/step_graphs.h"
#include "optim/adamw.h"
#include "parallel/mesh.h"
#include "parallel/parameter_exchange.h"

namespace longship {

// What steps work on.
struct Training {
  Model& model;
  ParameterExchange& exchange;  // of the model's parameters
  AdamW& optimizer;
  const Mesh& mesh;
  StepGraphs* graphs = nullptr;  // null: kernels are enqueued one by one
};

struct StepOptions {
  double learning_rate = 0;
  double clip_norm = 0;  // 0: off
  // Called once, when forward and backward are enqueued: a GPU works on them meanwhile.
  std::function<void()> meanwhile = {};
};

struct StepOutcome {
  double loss = 0;              // mean over the loss tokens of the whole step, nats
  double grad_norm = 0;         // global L2 norm before clipping
  int64_t num_tokens = 0;       // input tokens of the step, all ranks
  int64_t num_loss_tokens = 0;  // all ranks
};

// Loss and gradients are sums over tokens divided by the loss tokens of the whole step, counted
// before the forward: they do not depend on how the work is split. On a non-finite loss or gradient
// throws Error(kNonFinite) naming the first bad tensor, with weights and optimizer state unchanged.
// A step without any loss token throws Error(kCorrupt). Collective over mesh.world.
//
// The batches lie where the model does. The host waits for a GPU once, for loss and norm; when the
// step returns, the update may still be under way there.
StepOutcome train_step(Context& ctx, const Training& training, std::span<const Batch> micro_batches,
                       const StepOptions& options);

}  // namespace longship
