#include "launch/train_step.h"

#include <cmath>

#include "launch/agreement.h"
#include "launch/micro_batch.h"
#include "optim/gradient_norm.h"
#include "runtime/autograd/tape.h"
#include "runtime/host_copy.h"

namespace longship {
namespace {

// On the host.
double scalar(const Tensor& tensor) {
  return dispatch_floating(
      tensor.dtype(), [&](auto tag) { return static_cast<double>(*tensor.data<decltype(tag)>()); });
}

// Adds the gradient of sum(loss) / num_loss_tokens of one micro-batch; returns its sum of losses,
// on its way to the host.
Tensor accumulate_gradients(Context& ctx, const Training& training, const Batch& batch,
                            int64_t num_loss_tokens, bool is_last) {
  const double seed = 1.0 / static_cast<double>(num_loss_tokens);
  // With graphs there are no ranks to tell when gradients are complete.
  training.exchange.begin_micro_batch(is_last && training.graphs == nullptr);
  const Tensor sum = training.graphs != nullptr
                         ? training.graphs->forward_backward(batch, seed)
                         : forward_backward(ctx, *training.model.transformer, batch, seed);
  training.exchange.end_micro_batch();
  return start_download(ctx, sum);
}

// Runs the step again, checking the output of every op, so that the error names the first bad one.
[[noreturn]] void explain_non_finite(Context& ctx, const Training& training,
                                     std::span<const Batch> micro_batches, int64_t num_loss_tokens,
                                     const std::string& symptom) {
  const ParameterList& parameters = training.model.parameters;
  const std::string bad_gradient = first_non_finite(ctx, parameters, training.exchange.sharers());
  Training watched = training;
  watched.graphs = nullptr;
  training.exchange.begin_step();
  ctx.check_finite = true;
  run_together(training.mesh.world, "train.check_parameters", [&] {
    for (const Parameter& parameter : parameters.all())
      check_finite(ctx,
                   parameter.first_element == 0
                       ? fmt::format("parameter {}", parameter.name)
                       : fmt::format("parameter {} from element {} on", parameter.name,
                                     parameter.first_element),
                   parameter.master);
  });
  for (const Batch& batch : micro_batches)
    accumulate_gradients(ctx, watched, batch, num_loss_tokens, /*is_last=*/false);
  // Another rank may have found the culprit: it ends the job with its message, here we wait.
  training.mesh.world.barrier("train.explain_non_finite");
  throw Error(ErrorCode::kNonFinite,
              {.what = symptom,
               .expected = "finite loss and gradients",
               .found = bad_gradient.empty() ? "every gradient finite; their sum overflows"
                                             : "gradient of " + bad_gradient,
               .next = "weights were not changed; lower optim.learning_rate or inspect the data"});
}

}  // namespace

StepOutcome train_step(Context& ctx, const Training& training, std::span<const Batch> micro_batches,
                       const StepOptions& options) {
  const Mesh& mesh = training.mesh;
  // Every rank of an sp group holds the same micro-batches, so their counts are summed over dp.
  StepOutcome outcome;
  int64_t num_tokens = 0, num_loss_tokens = 0;
  for (const Batch& batch : micro_batches) {
    num_tokens += batch.plan.num_tokens();
    num_loss_tokens += batch.num_loss_tokens;
  }
  outcome.num_tokens = mesh.dp.all_reduce_value("train.num_tokens", num_tokens, ReduceOp::kSum);
  outcome.num_loss_tokens =
      mesh.dp.all_reduce_value("train.num_loss_tokens", num_loss_tokens, ReduceOp::kSum);
  if (outcome.num_loss_tokens == 0)
    throw Error(ErrorCode::kCorrupt,
                {.what = "a step holds no token to learn from",
                 .expected = "at least one token with loss weight 1 in train.global_batch samples",
                 .next = "raise train.global_batch, or check the prompts of the prepared data"});

  training.exchange.begin_step();
  std::vector<Tensor> losses;
  for (const Batch& batch : micro_batches)
    losses.push_back(accumulate_gradients(ctx, training, batch, outcome.num_loss_tokens,
                                          /*is_last=*/&batch == &micro_batches.back()));
  training.exchange.finish_gradients();
  if (options.meanwhile) options.meanwhile();

  // The norm is on the host when the GPU is done with all that is before it, the losses included.
  outcome.grad_norm = gradient_norm(ctx, training.model.parameters, training.exchange.sharers());
  double loss_sum = 0;
  for (const Tensor& loss : losses) loss_sum += scalar(loss);
  loss_sum = mesh.world.all_reduce_value("train.loss", loss_sum, ReduceOp::kSum);

  outcome.loss = loss_sum / static_cast<double>(outcome.num_loss_tokens);
  if (!std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm))
    explain_non_finite(
        ctx, training, micro_batches, outcome.num_loss_tokens,
        fmt::format("loss {} with gradient norm {}", outcome.loss, outcome.grad_norm));
  training.optimizer.step(ctx, options.learning_rate,
                          clip_scale(outcome.grad_norm, options.clip_norm));
  training.exchange.updated();
  return outcome;
}

}  // namespace longship
