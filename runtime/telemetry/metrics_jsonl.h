// metrics.jsonl: one JSON object per step, whatever else happens.
#pragma once

#include <filesystem>

#include "runtime/io/file_descriptor.h"
#include "runtime/telemetry/step_metrics.h"

namespace longship {

class MetricsJsonl {
 public:
  // Opens or creates the file for a run that has done `resumed_step` steps. Lines of later steps,
  // and a last line that a crash cut short, are removed, so no step appears twice. A line in
  // between that is not ours throws Error(kCorrupt) with its number.
  MetricsJsonl(const std::filesystem::path& path, int64_t resumed_step);

  // Appends one line in one write. Fields as in StepMetrics; "loss_hex" and "grad_norm_hex" repeat
  // the values as C hexadecimal floats, to compare runs bit by bit; NaN and infinity are null.
  void append(const StepMetrics& metrics);

 private:
  FileDescriptor file_;
};

}  // namespace longship
