#include "runtime/memory/arena_pool.h"

#include <gtest/gtest.h>

#include <cstring>

#include "runtime/memory.h"
#include "runtime/memory/counting_blocks.h"
#include "runtime/memory/host_blocks.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

ArenaPool host_arena() {
  return ArenaPool(std::make_unique<HostBlocks>());
}

TEST(ArenaPool, JoinsNeighboursSoThatALargerBlockFits) {
  for (const std::vector<size_t>& order :
       {std::vector<size_t>{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}}) {
    ArenaPool pool = host_arena();
    void* blocks[3];
    for (void*& block : blocks) block = pool.take(20 * kMiB);
    EXPECT_EQ(pool.num_system_allocations(), 1);
    for (size_t i : order) pool.give(blocks[i], 20 * kMiB, {});
    void* whole = pool.take(ArenaPool::kSegmentBytes);
    EXPECT_EQ(whole, blocks[0]);
    EXPECT_EQ(pool.num_system_allocations(), 1);
    pool.give(whole, ArenaPool::kSegmentBytes, {});
  }
}

TEST(ArenaPool, TakesTheSmallestPlaceThatFits) {
  ArenaPool pool = host_arena();
  void* large = pool.take(8 * kMiB);
  void* wall = pool.take(1);
  void* small = pool.take(2 * kMiB);
  void* end = pool.take(1);
  pool.give(large, 8 * kMiB, {});
  pool.give(small, 2 * kMiB, {});
  void* fits = pool.take(kMiB);
  EXPECT_EQ(fits, small);
  pool.give(fits, kMiB, {});
  pool.give(wall, 1, {});
  pool.give(end, 1, {});
}

TEST(ArenaPool, KeepsBlocksApartAndAsksTheSystemNoMoreFromTheSecondRoundOn) {
  ArenaPool pool = host_arena();
  struct Block {
    uint8_t* data;
    int64_t bytes;
    uint8_t value;
  };
  auto check_and_give = [&](const Block& block) {
    EXPECT_TRUE(block.data[0] == block.value && block.data[block.bytes - 1] == block.value);
    pool.give(block.data, block.bytes, {});
  };
  int64_t after_first = 0;
  for (int round = 0; round < 4; ++round) {
    std::vector<Block> live;
    for (uint64_t i = 0; i < 400; ++i) {
      const auto bytes = static_cast<int64_t>(1 + uniform_index(1, 2, i, 3 * kMiB));
      const auto value = static_cast<uint8_t>(i);
      auto* data = static_cast<uint8_t*>(pool.take(bytes));
      ASSERT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
      std::memset(data, value, static_cast<size_t>(bytes));
      live.push_back({data, bytes, value});
      if (uniform_index(1, 3, i, 3) == 0) continue;
      const auto victim =
          live.begin() + static_cast<ptrdiff_t>(uniform_index(1, 4, i, live.size()));
      check_and_give(*victim);
      live.erase(victim);
    }
    for (const Block& block : live) check_and_give(block);
    if (round == 0) after_first = pool.num_system_allocations();
  }
  EXPECT_EQ(pool.num_system_allocations(), after_first);
  pool.trim();
  EXPECT_EQ(pool.reserved_bytes(), 0);
}

TEST(ArenaPool, TrimsOnlySegmentsThatNobodyUses) {
  ArenaPool pool = host_arena();
  void* first = pool.take(ArenaPool::kSegmentBytes);
  void* second = pool.take(1);
  EXPECT_EQ(pool.reserved_bytes(), 2 * ArenaPool::kSegmentBytes);
  pool.give(first, ArenaPool::kSegmentBytes, {});
  pool.trim();
  EXPECT_EQ(pool.reserved_bytes(), ArenaPool::kSegmentBytes);
  pool.give(second, 1, {});
}

TEST(ArenaPool, RefusesBlocksThatItDidNotHandOut) {
  ArenaPool pool = host_arena();
  void* block = pool.take(4096);
  const auto inside = static_cast<std::byte*>(block) + 512;
  testing::expect_error(ErrorCode::kInternal, {"4096"}, [&] { pool.give(inside, 4096, {}); });
  testing::expect_error(ErrorCode::kInternal, {"8192"}, [&] { pool.give(block, 8192, {}); });
  pool.give(block, 4096, {});
  testing::expect_error(ErrorCode::kInternal, {"4096"}, [&] { pool.give(block, 4096, {}); });
}

TEST(ArenaPool, FitsASmallerSegmentIntoWhatIsLeft) {
  const Device gpu{DeviceKind::kCuda, 3};
  Memory memory(std::make_unique<ArenaPool>(std::make_unique<CountingBlocks>(gpu, 10 * kMiB)));
  void* block = memory.allocate(7 * kMiB);
  EXPECT_EQ(memory.reserved_bytes(), 8 * kMiB);
  testing::expect_error(
      ErrorCode::kOutOfMemory,
      {"cannot allocate 5.0 MiB", "GPU 3", "7.0 MiB already live", "8.0 MiB reserved", "recompute"},
      [&] { memory.allocate(5 * kMiB); });
  memory.release(block, 7 * kMiB);
  EXPECT_EQ(memory.live_bytes(), 0);
}

}  // namespace
}  // namespace longship
