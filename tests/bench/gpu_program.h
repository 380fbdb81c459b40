// What the benchmark programs of one GPU have in common: options, lines of results, errors.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "launch/device_peaks.h"
#include "launch/guarded_main.h"
#include "runtime/cuda/device_info.h"
#include "runtime/gpu.h"

namespace longship {

// What is counted a second, and the most of it that could be.
struct RateScale {
  std::string unit, json_unit;    // "GB/s", "gb_per_s"
  double in_unit = 0;             // 1e9
  std::string bound, json_share;  // "of copy", "share_of_copy"
  // A second, for an amount; 0 = not known.
  std::function<double(double amount)> highest = {};
};

// Prints a line a case, or with `json` an object.
class RateReport {
 public:
  RateReport(RateScale scale, bool json) : scale_(std::move(scale)), json_(json) {
    if (!json_)
      std::printf("%-52s %9s %9s %8s\n", "case", "ms", scale_.unit.c_str(), scale_.bound.c_str());
  }

  // `amount` of bytes or operations.
  void add(const std::string& name, double ms, double amount) const {
    const double per_second = 1e3 * amount / ms;
    const double highest = scale_.highest(amount);
    const double share = highest > 0 ? per_second / highest : 0;
    if (json_) {
      const nlohmann::json line = {{"case", name},
                                   {"ms", ms},
                                   {scale_.json_unit, per_second / scale_.in_unit},
                                   {"floor_ms", ms * share},
                                   {scale_.json_share, share}};
      std::printf("%s\n", line.dump().c_str());
    } else {
      std::printf("%-52s %9.4f %9.0f %7.1f%%\n", name.c_str(), ms, per_second / scale_.in_unit,
                  100 * share);
    }
    std::fflush(stdout);
  }

 private:
  RateScale scale_;
  bool json_;
};

// Operations, against the rate in bf16 of the data sheet of the GPU of `ctx`.
inline RateReport flops_report(const Context& ctx, bool json) {
  const double peak = device_peaks(ctx).bf16_flops;
  return RateReport({.unit = "TFLOP/s",
                     .json_unit = "tflop_per_s",
                     .in_unit = 1e12,
                     .bound = "of peak",
                     .json_share = "share_of_peak",
                     .highest = [peak](double) { return peak; }},
                    json);
}

// Runs `body(ctx, json)` on the GPU that --gpu names. `app` has the program's own options already.
template <class Body>
int run_gpu_program(CLI::App& app, int argc, char** argv, const Body& body) {
  int ordinal = 0;
  bool json = false;
  app.add_option("--gpu", ordinal, "Which GPU")->check(CLI::NonNegativeNumber);
  app.add_flag("--json", json, "Print a JSON object a line");
  CLI11_PARSE(app, argc, argv);
  return guarded_main([&] {
    const Context ctx = gpu_context(ordinal);
    if (!json)
      std::printf("%s, CUDA %s\n\n", gpu_name(ordinal).c_str(),
                  cuda_info().runtime_version.c_str());
    body(ctx, json);
    return 0;
  });
}

}  // namespace longship
