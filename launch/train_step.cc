#include "launch/train_step.h"

#include <cmath>

#include "optim/gradient_norm.h"
#include "parallel/gradient_reduction.h"
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
// on its way to the host. `complete` hears which gradients this was the last contribution to.
Tensor accumulate_gradients(Context& ctx, Model& model, const Batch& batch, int64_t num_loss_tokens,
                            const Transformer::GradientsComplete& complete = {}) {
  Tape tape;
  Context recording = ctx;
  recording.tape = &tape;
  const Variable loss = model.transformer->loss_sum(recording, batch.tokens_T, batch.targets_T,
                                                    batch.loss_weights_T, batch.plan, complete);
  const Tensor sum = start_download(ctx, loss.value());
  tape.backward(recording, loss, 1.0 / static_cast<double>(num_loss_tokens));
  return sum;
}

// Runs the step again, checking the output of every op, so that the error names the first bad one.
[[noreturn]] void explain_non_finite(Context& ctx, Model& model, const Mesh& mesh,
                                     std::span<const Batch> micro_batches, int64_t num_loss_tokens,
                                     const std::string& symptom) {
  const std::string bad_gradient = first_non_finite(ctx, model.parameters);
  model.parameters.clear_gradients();
  ctx.check_finite = true;
  for (const Parameter& parameter : model.parameters.all())
    check_finite(ctx, fmt::format("parameter {}", parameter.name), parameter.master);
  for (const Batch& batch : micro_batches) accumulate_gradients(ctx, model, batch, num_loss_tokens);
  // Another rank may have found the culprit: it ends the job with its message, here we wait.
  mesh.world.barrier("train.explain_non_finite");
  throw Error(ErrorCode::kNonFinite,
              {.what = symptom,
               .expected = "finite loss and gradients",
               .found = bad_gradient.empty() ? "every gradient finite; their sum overflows"
                                             : "gradient of " + bad_gradient,
               .next = "weights were not changed; lower optim.learning_rate or inspect the data"});
}

}  // namespace

StepOutcome train_step(Context& ctx, Model& model, AdamW& optimizer, const Mesh& mesh,
                       std::span<const Batch> micro_batches, const StepOptions& options) {
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

  model.parameters.clear_gradients();
  // Gradients are summed over ranks while the last backward goes on to earlier layers.
  GradientReduction reduction(ctx, model.parameters, mesh.world);
  const auto complete = [&](Context&, size_t first) { reduction.begin_from(first); };
  std::vector<Tensor> losses;
  for (const Batch& batch : micro_batches) {
    const bool last = &batch == &micro_batches.back();
    losses.push_back(accumulate_gradients(
        ctx, model, batch, outcome.num_loss_tokens,
        last ? Transformer::GradientsComplete(complete) : Transformer::GradientsComplete()));
  }
  reduction.finish();
  if (options.meanwhile) options.meanwhile();

  // The norm is on the host when the GPU is done with all that is before it, the losses included.
  outcome.grad_norm = gradient_norm(ctx, model.parameters);
  double loss_sum = 0;
  for (const Tensor& loss : losses) loss_sum += scalar(loss);
  loss_sum = mesh.world.all_reduce_value("train.loss", loss_sum, ReduceOp::kSum);

  outcome.loss = loss_sum / static_cast<double>(outcome.num_loss_tokens);
  if (!std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm))
    explain_non_finite(
        ctx, model, mesh, micro_batches, outcome.num_loss_tokens,
        fmt::format("loss {} with gradient norm {}", outcome.loss, outcome.grad_norm));
  optimizer.step(ctx, options.learning_rate, clip_scale(outcome.grad_norm, options.clip_norm));
  return outcome;
}

}  // namespace longship
