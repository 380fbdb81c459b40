// What a case has to compute and move per token at least, and how long a machine needs for it.
#pragma once

#include <algorithm>

namespace longship {

struct MachineLimits {
  double gflops = 0;  // of all threads
  double gbytes_per_s = 0;
};

struct WorkAmount {
  double flops = 0;
  double bytes = 0;  // inputs read once, results written once

  double arithmetic_us(const MachineLimits& limits) const { return 1e-3 * flops / limits.gflops; }
  double memory_us(const MachineLimits& limits) const { return 1e-3 * bytes / limits.gbytes_per_s; }
  double floor_us(const MachineLimits& limits) const {
    return std::max(arithmetic_us(limits), memory_us(limits));
  }
};

}  // namespace longship
