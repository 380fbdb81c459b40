#include "runtime/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "runtime/error.h"

namespace longship {
namespace {

float as_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}

TEST(Bf16, KeepsEveryValueItCanRepresent) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = as_float(bits << 16);
    bf16 stored;
    stored.bits = static_cast<uint16_t>(bits);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(bf16(value)))) << bits;
    } else {
      EXPECT_EQ(bf16(value).bits, bits);
      EXPECT_EQ(std::bit_cast<uint32_t>(static_cast<float>(stored)), bits << 16);
      EXPECT_EQ(static_cast<double>(stored), static_cast<double>(value));
    }
  }
}

TEST(Bf16, RoundsToTheNearestAndTiesToEven) {
  EXPECT_EQ(bf16(as_float(0x3f807fff)).bits, 0x3f80);  // just below the middle
  EXPECT_EQ(bf16(as_float(0x3f808000)).bits, 0x3f80);  // the middle, even below
  EXPECT_EQ(bf16(as_float(0x3f808001)).bits, 0x3f81);  // just above
  EXPECT_EQ(bf16(as_float(0x3f818000)).bits, 0x3f82);  // the middle, even above
  EXPECT_EQ(bf16(as_float(0xbf818000)).bits, 0xbf82);  // the same for negative values
  EXPECT_EQ(bf16(as_float(0x00008000)).bits, 0x0000);  // denormals too
  EXPECT_EQ(bf16(as_float(0x00018000)).bits, 0x0002);
  EXPECT_EQ(bf16(-0.0f).bits, 0x8000);
}

TEST(Bf16, NearestIsNearestForEveryNeighbourhood) {
  for (uint32_t high = 0; high < 0x7f80; high += 7)
    for (const uint32_t low : {0x0001u, 0x1234u, 0x7fffu, 0x8001u, 0xabcdu, 0xffffu}) {
      const float value = as_float(high << 16 | low);
      const double found = static_cast<double>(bf16(value));
      const double below = as_float(high << 16), above = as_float((high + 1) << 16);
      if (std::isinf(above)) continue;
      EXPECT_LE(std::abs(found - value), std::min(value - below, above - value));
    }
}

TEST(Bf16, KeepsInfinitiesAndNeverTurnsNanIntoOne) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(static_cast<float>(bf16(infinity)), infinity);
  EXPECT_EQ(static_cast<float>(bf16(-infinity)), -infinity);
  EXPECT_EQ(static_cast<float>(bf16(std::numeric_limits<float>::max())), infinity);
  for (const uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu, 0x7fc00000u})
    EXPECT_TRUE(std::isnan(static_cast<float>(bf16(as_float(nan))))) << nan;
}

TEST(DType, TypesSizesAndNamesAgree) {
  EXPECT_EQ(dtype_size(DTypeOf<float>::value), static_cast<int64_t>(sizeof(float)));
  EXPECT_EQ(dtype_size(DTypeOf<bf16>::value), static_cast<int64_t>(sizeof(bf16)));
  EXPECT_EQ(dtype_size(DTypeOf<double>::value), static_cast<int64_t>(sizeof(double)));
  EXPECT_EQ(dtype_size(DTypeOf<int32_t>::value), static_cast<int64_t>(sizeof(int32_t)));
  EXPECT_EQ(dtype_size(DTypeOf<int64_t>::value), static_cast<int64_t>(sizeof(int64_t)));
  EXPECT_EQ(dtype_size(DTypeOf<uint8_t>::value), static_cast<int64_t>(sizeof(uint8_t)));
  EXPECT_EQ(dtype_name(DType::kBF16), "bf16");
  EXPECT_EQ(accumulator_dtype(DType::kBF16), DType::kF32);
  EXPECT_EQ(accumulator_dtype(DType::kF64), DType::kF64);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    EXPECT_TRUE(is_floating(dtype));
    EXPECT_EQ(dispatch_floating(dtype, [](auto tag) { return DTypeOf<decltype(tag)>::value; }),
              dtype);
  }
  EXPECT_FALSE(is_floating(DType::kI64));
  EXPECT_THROW(dispatch_floating(DType::kU8, [](auto) {}), Error);
}

}  // namespace
}  // namespace longship
