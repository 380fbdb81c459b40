// What `longship bench` says of its cases: a printed line and a JSON object each.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "launch/device_peaks.h"
#include "launch/job.h"

namespace longship {

struct BenchCase {
  std::string name;     // kind, shape and length: "attention 2gpu causal 32/8x128 S=64K ring"
  double ms = 0;        // the slowest rank's, median of rounds
  double floor_ms = 0;  // what the hardware needs at least; 0 = not known
  double rate = 0;      // in `unit`
  std::string unit;     // "TFLOP/s a GPU"
  std::string note;     // ends the line; may be empty
  // More fields of the JSON object.
  nlohmann::ordered_json details = nlohmann::ordered_json::object();
};

// Rank 0 prints every case when it is added, and writes all of them to `json_path` ("" = nowhere),
// a line each, when it is told to finish.
class BenchReport {
 public:
  // `command`: how to run it again.
  BenchReport(const Job& job, std::string json_path, std::string command);

  // Of the device that this rank uses; all 0 on the CPU.
  const DevicePeaks& peaks() const { return peaks_; }

  void add(const BenchCase& result);
  void finish() const;

 private:
  const Job& job_;
  DevicePeaks peaks_;
  nlohmann::ordered_json versions_;
  std::string json_path_;
  std::string command_;
  std::string lines_;
};

// "2gpu" or "1cpu": ranks, and what they run on.
std::string device_count_name(const Job& job);
// The least time for `amount` at `peak` a second, 0 where the peak is not known.
double floor_ms(double amount, double peak);
// "64K", "96", "1M": whole powers of 1024, as lengths are written in names of cases.
std::string length_name(int64_t length);

}  // namespace longship
