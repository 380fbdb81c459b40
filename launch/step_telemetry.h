// What is measured of each training step, and written: a progress line, metrics.jsonl, TensorBoard.
#pragma once

#include <chrono>
#include <optional>
#include <span>

#include "data/batch_loader.h"
#include "launch/checkpointing.h"
#include "launch/job.h"
#include "launch/train_step.h"
#include "runtime/telemetry/metrics_jsonl.h"
#include "runtime/telemetry/tensorboard.h"

namespace longship {

class StepTelemetry {
 public:
  // All but `first_step` outlive this; that is the last step done so far. Files are written by rank
  // 0 only.
  StepTelemetry(const Job& job, const config::Run& run, const Mesh& mesh, const BatchLoader& loader,
                int64_t first_step);

  void begin_step();
  // Counts the FLOPs of the step that has begun, where the peak of the device is known. Takes a
  // while: a GPU should be at work.
  void count_flops(const Model& model, std::span<const Batch> micro_batches);
  // Of the step that has begun, which `state` counts already.
  void report(const StepOutcome& outcome, const TrainingState& state, double learning_rate);

 private:
  using Clock = std::chrono::steady_clock;

  StepMetrics metrics(const StepOutcome& outcome, const TrainingState& state,
                      double learning_rate) const;

  const Job& job_;
  const config::Run& run_;
  const Mesh& mesh_;
  const BatchLoader& loader_;
  int64_t first_step_;
  std::optional<double> peak_flops_;  // that the device of a rank reaches a second, if known
  std::optional<MetricsJsonl> metrics_;
  std::optional<TensorBoard> tensorboard_;

  const Clock::time_point loop_begin_ = Clock::now();
  Clock::time_point step_begin_;
  double comm_wait_before_ = 0, data_wait_before_ = 0;
  double flops_ = 0;  // of this dp rank's batches
};

}  // namespace longship
