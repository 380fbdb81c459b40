#include "launch/step_telemetry.h"

#include "launch/device_peaks.h"
#include "launch/run_folder.h"
#include "launch/step_flops.h"
#include "runtime/seconds_since.h"
#include "runtime/telemetry/progress_line.h"

namespace longship {
namespace {

std::optional<double> known_peak(const Job& job, const config::Run& run) {
  if (run.telemetry().peak_tflops() > 0) return 1e12 * run.telemetry().peak_tflops();
  const double peak = device_peaks(job.ctx).bf16_flops;
  const bool is_known = peak > 0 && run.train().precision() == config::Train::BF16;
  return is_known ? std::optional(peak) : std::nullopt;
}

}  // namespace

StepTelemetry::StepTelemetry(const Job& job, const config::Run& run, const Mesh& mesh,
                             const BatchLoader& loader, int64_t first_step)
    : job_(job),
      run_(run),
      mesh_(mesh),
      loader_(loader),
      first_step_(first_step),
      peak_flops_(known_peak(job, run)) {
  if (!job.is_first_rank()) return;
  const RunFolder folder{run.output_dir()};
  metrics_.emplace(folder.metrics(), first_step);
  if (run.telemetry().tensorboard()) tensorboard_.emplace(folder.tensorboard(), first_step);
}

void StepTelemetry::begin_step() {
  step_begin_ = Clock::now();
  comm_wait_before_ = job_.comm_wait_s();
  data_wait_before_ = loader_.wait_s();
  flops_ = 0;
  job_.ctx.memory->reset_peak();
}

void StepTelemetry::count_flops(const Model& model, std::span<const Batch> micro_batches) {
  if (peak_flops_) flops_ = step_flops(run_, model, micro_batches);
}

void StepTelemetry::report(const StepOutcome& outcome, const TrainingState& state,
                           double learning_rate) {
  const StepMetrics step = metrics(outcome, state, learning_rate);
  if (metrics_) metrics_->append(step);
  if (tensorboard_) tensorboard_->append(step);
  if (step.step % run_.telemetry().log_every() == 0 || step.step == step.total_steps)
    job_.say(progress_line(step));
}

StepMetrics StepTelemetry::metrics(const StepOutcome& outcome, const TrainingState& state,
                                   double learning_rate) const {
  const double step_s = seconds_since(step_begin_);
  const double mean_step_s =
      seconds_since(loop_begin_) / static_cast<double>(state.step - first_step_);
  std::optional<double> flops_per_s, mfu;
  if (peak_flops_) {
    flops_per_s = flops_ / mesh_.sp.size() / step_s;
    mfu = *flops_per_s / *peak_flops_;
  }
  return {.step = state.step,
          .total_steps = run_.train().steps(),
          .loss = outcome.loss,
          .grad_norm = outcome.grad_norm,
          .learning_rate = learning_rate,
          .tokens = outcome.num_tokens,
          .tokens_consumed = state.tokens_consumed,
          .step_s = step_s,
          .tokens_per_s = static_cast<double>(outcome.num_tokens) / step_s,
          .live_memory_bytes = job_.ctx.memory->live_bytes(),
          .peak_memory_bytes = job_.ctx.memory->peak_bytes(),
          .reserved_memory_bytes = job_.ctx.memory->reserved_bytes(),
          .system_allocations = job_.ctx.memory->num_system_allocations(),
          .flops_per_s = flops_per_s,
          .mfu = mfu,
          // A GPU has done all of a step that is before its norm when that is on the host; what it
          // waits for after that is of the next step.
          .comm_wait_share = (job_.comm_wait_s() - comm_wait_before_) / step_s,
          .data_wait_share = (loader_.wait_s() - data_wait_before_) / step_s,
          .eta_s = mean_step_s * static_cast<double>(run_.train().steps() - state.step),
          .validation_loss = std::nullopt};
}

}  // namespace longship
