#include "parallel/softmax_block.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace longship {
namespace {

TEST(GroupedKvHeads, DealsWholeGroupsInOrder) {
  EXPECT_EQ(grouped_kv_heads(8, 2), (std::vector<int64_t>{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(grouped_kv_heads(3, 3), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(grouped_kv_heads(4, 1), (std::vector<int64_t>{0, 0, 0, 0}));
  testing::expect_error(ErrorCode::kInternal, {"8 query heads", "3 key/value heads"},
                        [] { grouped_kv_heads(8, 3); });
}

}  // namespace
}  // namespace longship
