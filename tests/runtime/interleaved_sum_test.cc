#include "runtime/interleaved_sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "runtime/random.h"

namespace longship {
namespace {

TEST(InterleavedSum, AddsEveryTermOnce) {
  for (int64_t count = 0; count < 70; ++count) {
    const int64_t sum = interleaved_sum<int64_t>(count, [](int64_t i) { return i * i + 1; });
    int64_t expected = 0;
    for (int64_t i = 0; i < count; ++i) expected += i * i + 1;
    EXPECT_EQ(sum, expected) << count;
  }
}

TEST(InterleavedSum, KeepsItsOrderWhereverTheDataLies) {
  const int64_t count = 1001;
  std::vector<float> values(count + 16);
  float first = 0;
  for (int64_t shift = 0; shift < 16; ++shift) {
    float* data = values.data() + shift;
    for (int64_t i = 0; i < count; ++i)
      data[i] = static_cast<float>(normal(1, 1, static_cast<uint64_t>(i)));
    const float sum = interleaved_sum<float>(count, [&](int64_t i) { return data[i]; });
    if (shift == 0) first = sum;
    EXPECT_EQ(sum, first) << shift;
  }
}

TEST(InterleavedSum, RoundsLessThanARunningSum) {
  const int64_t count = 1 << 20;
  const auto term = [](int64_t i) { return 1.0f + 0.1f * static_cast<float>(i % 7); };
  double exact = 0;
  float running = 0;
  for (int64_t i = 0; i < count; ++i) {
    exact += static_cast<double>(term(i));
    running += term(i);
  }
  const double error = std::abs(interleaved_sum<float>(count, term) - exact);
  EXPECT_LT(error * 8, std::abs(static_cast<double>(running) - exact));
}

}  // namespace
}  // namespace longship
