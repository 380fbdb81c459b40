#include "launch/head_shape.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace longship {
namespace {

TEST(HeadShape, ReadsWhatItWrites) {
  const HeadShape shape = parse_head_shape("12/4x96");
  EXPECT_EQ(shape.num_heads, 12);
  EXPECT_EQ(shape.num_kv_heads, 4);
  EXPECT_EQ(shape.head_size, 96);
  EXPECT_EQ(shape.name(), "12/4x96");
  EXPECT_EQ(parse_head_shape("8/2").name(), "8/2x128");
}

TEST(HeadShape, RefusesEverythingElse) {
  for (const char* text : {"", "32", "32/", "/8", "32x128", "32/8x", "32/8x0", "-32/8x128",
                           "32/8x128x2", "32/8 x128", "99999999999999999999/1x1"})
    testing::expect_error(ErrorCode::kConfig, {"--heads", "such as 32/8x128", text},
                          [&] { parse_head_shape(text); });
  testing::expect_error(ErrorCode::kConfig, {"multiple", "4/3x16"},
                        [] { parse_head_shape("4/3x16"); });
}

}  // namespace
}  // namespace longship
