#include "runtime/vector_exp.h"

#include <gtest/gtest.h>

#include <bit>
#include <vector>

namespace longship {
namespace {

TEST(VectorExp, IsWithinTwoUlpOfExpOverItsWholeRange) {
  double worst = 0;
  for (float x = -86.8f; x < 88.72f; x += 0.00037f) {
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(vector_exp(x) - exact) / exact);
  }
  EXPECT_LE(worst, 2e-7);
  EXPECT_EQ(vector_exp(0.0f), 1.0f);
}

TEST(VectorExp, SaturatesAndKeepsNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(vector_exp(-infinity), 0.0f);
  EXPECT_EQ(vector_exp(-87.0f), 0.0f);
  EXPECT_EQ(vector_exp(-1e30f), 0.0f);
  EXPECT_EQ(vector_exp(infinity), infinity);
  EXPECT_EQ(vector_exp(88.73f), infinity);
  EXPECT_EQ(vector_exp(1e30f), infinity);
  EXPECT_TRUE(std::isfinite(vector_exp(88.7228f)));
  EXPECT_TRUE(std::isnan(vector_exp(std::nanf(""))));
}

TEST(VectorExp, GivesTheSameBitsInEveryPlaceOfALoop) {
  for (const float x : {-3.25f, -0.7f, 0.3f, 11.1f}) {
    std::vector<float> values(67, x);
    float* data = values.data();
#pragma omp simd
    for (size_t i = 0; i < values.size(); ++i) data[i] = vector_exp(data[i]);
    for (const float value : values)
      EXPECT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(values[0])) << x;
  }
}

}  // namespace
}  // namespace longship
