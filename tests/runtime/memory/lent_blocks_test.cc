#include "runtime/memory/lent_blocks.h"

#include <gtest/gtest.h>

#include "runtime/memory/arena_pool.h"
#include "runtime/memory/counting_blocks.h"
#include "runtime/memory/host_blocks.h"
#include "runtime/tensor.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

std::shared_ptr<Memory> arena(std::unique_ptr<BlockSource> source) {
  return std::make_shared<Memory>(std::make_unique<ArenaPool>(std::move(source)));
}

TEST(LentBlocks, AreLiveInTheMemoryOfTheLenderUntilTheirPoolGoes) {
  const auto lender = arena(std::make_unique<HostBlocks>());
  const Tensor own = Tensor::zeros(lender, {1000}, DType::kU8);
  const int64_t before = lender->live_bytes();
  auto borrower = arena(std::make_unique<LentBlocks>(lender));
  EXPECT_EQ(borrower->device(), lender->device());
  {
    const Tensor tensor = Tensor::zeros(borrower, {1000}, DType::kU8);
    tensor.data<uint8_t>()[999] = 1;
    EXPECT_EQ(own.data<uint8_t>()[999], 0);
    EXPECT_EQ(lender->live_bytes() - before, ArenaPool::kSegmentBytes);
  }
  EXPECT_EQ(borrower->live_bytes(), 0);
  EXPECT_EQ(lender->live_bytes() - before, ArenaPool::kSegmentBytes);
  const int64_t num_allocations = lender->num_system_allocations();
  borrower.reset();
  EXPECT_EQ(lender->live_bytes(), before);
  // What was lent is used again.
  const auto another = arena(std::make_unique<LentBlocks>(lender));
  Tensor::zeros(another, {1000}, DType::kU8);
  EXPECT_EQ(lender->num_system_allocations(), num_allocations);
}

TEST(LentBlocks, KeepTheirPlacesWhenTheLenderHasNoMore) {
  const auto lender =
      arena(std::make_unique<CountingBlocks>(Device{}, 2 * ArenaPool::kSegmentBytes));
  const auto borrower = arena(std::make_unique<LentBlocks>(lender));
  const void* const place = Tensor::empty(borrower, {100}, DType::kU8).address();
  testing::expect_error(ErrorCode::kOutOfMemory, {"planned memory"}, [&] {
    Tensor::empty(borrower, {3 * ArenaPool::kSegmentBytes}, DType::kU8);
  });
  EXPECT_EQ(Tensor::empty(borrower, {100}, DType::kU8).address(), place);
  EXPECT_EQ(lender->live_bytes(), ArenaPool::kSegmentBytes);
}

}  // namespace
}  // namespace longship
