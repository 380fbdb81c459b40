// The line that a run prints for a step: fixed columns, easy to grep.
#pragma once

#include <string>

#include "runtime/telemetry/step_metrics.h"

namespace longship {

// One line without line feed; memory is the peak, TFLOP/s of a rank and MFU stand only where the
// peak rate is known, "val" only where there is a validation loss:
//   step   120/500  24.0% | loss  2.1134 | gnorm    0.81 | lr 2.9e-04 | 63.9k tok/s |
//   412.3 TFLOP/s | mfu 41.7% | mem 214 MB | comm  6.1% | data  0.3% | eta  3m12s | val  2.2011
std::string progress_line(const StepMetrics& metrics);

// At most five characters, with k, M, G or T: "63.9k", "512", "1.05M".
std::string short_count(double value);
// "214 MB", "1.5 GB", in powers of 1000.
std::string short_bytes(int64_t bytes);
// "12s", "3m12s", "8h40m", "2d03h"; "?" when not finite or negative.
std::string short_duration(double seconds);

}  // namespace longship
