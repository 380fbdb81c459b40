#include "runtime/vector_log.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

TEST(VectorLog, IsPreciseAlsoNearOne) {
  double worst = 0;
  auto measure = [&](float x) {
    const double exact = std::log(static_cast<double>(x));
    if (x != 1) worst = std::max(worst, std::abs((vector_log(x) - exact) / exact));
  };
  for (float x = 1.2e-38f; x < 3e38f; x *= 1.0001f) measure(x);
  for (float x = 0.5f; x < 2; x += 1e-5f) measure(x);
  EXPECT_LE(worst, 3e-7);
  EXPECT_EQ(vector_log(1.0f), 0.0f);
}

TEST(VectorLog, OfOnePlusASmallNumberKeepsItsRelativePrecision) {
  double worst = 0;
  for (float x = 1e-37f; x <= 1; x *= 1.0003f) {
    const double exact = std::log1p(static_cast<double>(x));
    worst = std::max(worst, std::abs(vector_log1p(x) - exact) / exact);
  }
  EXPECT_LE(worst, 3e-7);
  EXPECT_EQ(vector_log1p(0.0f), 0.0f);
  EXPECT_NEAR(vector_log1p(1.0f), std::log(2.0), 1e-7);
}

}  // namespace
}  // namespace longship
