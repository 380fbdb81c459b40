#include "tests/support/leaf_gradients.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace longship::testing {

void check_leaf_gradients(const std::vector<std::pair<std::string, Variable>>& leaves,
                          const std::function<double()>& loss, std::string_view without_effect) {
  constexpr int64_t kMaxProbes = 15;
  for (const auto& [name, leaf] : leaves) {
    ASSERT_TRUE(leaf.gradient()->defined()) << name;
    const Tensor gradient = leaf.gradient()->sum();
    double* values = leaf.value().data<double>();
    const int64_t count = gradient.numel(), probes = std::min(count, kMaxProbes);
    double largest = 0;
    for (int64_t probe = 0; probe < probes; ++probe) {
      const int64_t i = count * probe / probes;
      const double kept = values[i], step = 1e-5;
      values[i] = kept + step;
      const double above = loss();
      values[i] = kept - step;
      const double below = loss();
      values[i] = kept;
      const double numeric = (above - below) / (2 * step);
      EXPECT_NEAR(gradient.data<double>()[i], numeric, 1e-6 * std::max(1.0, std::abs(numeric)))
          << name << " element " << i;
      largest = std::max(largest, std::abs(numeric));
    }
    if (name != without_effect) {
      EXPECT_GT(largest, 1e-4) << name << " has no effect";
    }
  }
}

}  // namespace longship::testing
