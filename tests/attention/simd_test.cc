#include "attention/simd.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

template <class A>
void expect_transposed() {
  constexpr int kLanes = Simd<A>::kLanes;
  typename Simd<A>::Vector square[kLanes];
  for (int row = 0; row < kLanes; ++row)
    for (int lane = 0; lane < kLanes; ++lane) square[row][lane] = static_cast<A>(100 * row + lane);
  transpose<A>(square);
  for (int row = 0; row < kLanes; ++row)
    for (int lane = 0; lane < kLanes; ++lane)
      EXPECT_EQ(square[row][lane], static_cast<A>(100 * lane + row));
}

TEST(Simd, TransposesASquareOfVectors) {
  expect_transposed<float>();
  expect_transposed<double>();
}

}  // namespace
}  // namespace longship
