// What is known about one optimizer step when it is done.
#pragma once

#include <cstdint>
#include <optional>

namespace longship {

struct StepMetrics {
  int64_t step = 0;  // 1 after the first update
  int64_t total_steps = 0;
  double loss = 0;  // mean over the loss tokens of the step, in nats
  double grad_norm = 0;
  double learning_rate = 0;
  int64_t tokens = 0;           // of this step, all ranks
  int64_t tokens_consumed = 0;  // since the start of the run
  double step_s = 0;
  double tokens_per_s = 0;
  int64_t live_memory_bytes = 0;  // of the rank that reports
  int64_t peak_memory_bytes = 0;
  int64_t reserved_memory_bytes = 0;
  int64_t system_allocations = 0;  // since the start; stays the same once memory is warm
  // Model FLOPs per second of each rank, and their share of the device's peak; only where the peak
  // is known.
  std::optional<double> flops_per_s = {};
  std::optional<double> mfu = {};
  // Parts of step_s, 0 to 1, for which the rank that reports waited for communication (on a GPU:
  // its compute stream stood still for that) and for data.
  double comm_wait_share = 0;
  double data_wait_share = 0;
  double eta_s = 0;
  std::optional<double> validation_loss = {};  // when this step was followed by an evaluation
};

}  // namespace longship
