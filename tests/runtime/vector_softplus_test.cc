#include "runtime/vector_softplus.h"

#include <gtest/gtest.h>

#include "runtime/vector_sigmoid.h"

namespace longship {
namespace {

TEST(VectorSoftplus, AndItsSlopeArePreciseInBothTails) {
  double worst_sigmoid = 0, worst_softplus = 0;
  for (float x = -86; x < 200; x += 0.0037f) {
    const double wide = static_cast<double>(x);
    const double sigmoid = 1 / (1 + std::exp(-wide));
    const double softplus = std::max(wide, 0.0) + std::log1p(std::exp(-std::abs(wide)));
    worst_sigmoid = std::max(worst_sigmoid, std::abs(vector_sigmoid(x) - sigmoid) / sigmoid);
    worst_softplus = std::max(worst_softplus, std::abs(vector_softplus(x) - softplus) / softplus);
  }
  EXPECT_LE(worst_sigmoid, 4e-7);
  EXPECT_LE(worst_softplus, 6e-7);
}

TEST(VectorSoftplus, AndItsSlopeStayFiniteFarOut) {
  EXPECT_EQ(vector_sigmoid(-1e30f), 0.0f);
  EXPECT_EQ(vector_sigmoid(1e30f), 1.0f);
  EXPECT_EQ(vector_softplus(-1e30f), 0.0f);
  EXPECT_EQ(vector_softplus(1e30f), 1e30f);
}

}  // namespace
}  // namespace longship
