#include "runtime/memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include "tests/support/expect_error.h"

namespace longship {
namespace {

TEST(Memory, AlignsEveryBlockTo64Bytes) {
  Memory memory;
  for (const int64_t bytes : {0, 1, 63, 65, 4097, 100000}) {
    void* block = memory.allocate(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u) << bytes;
    std::memset(block, 1, static_cast<size_t>(bytes));
    memory.release(block, bytes);
  }
}

TEST(Memory, ReusesFreedBlocksOfTheSameSizeClass) {
  Memory memory;
  void* first = memory.allocate(1 << 20);
  memory.release(first, 1 << 20);
  // Within an eighth below.
  void* second = memory.allocate((1 << 20) - 1000);
  EXPECT_EQ(first, second);
  void* third = memory.allocate(1 << 20);
  EXPECT_NE(third, second);
  memory.release(second, (1 << 20) - 1000);
  memory.release(third, 1 << 20);
}

TEST(Memory, WastesAtMostAnEighth) {
  for (int64_t bytes = 4097; bytes < int64_t{1} << 40; bytes = bytes * 9 / 7 + 1) {
    if (bytes > int64_t{1} << 28) break;
    Memory memory;
    void* block = memory.allocate(bytes);
    EXPECT_GE(memory.live_bytes(), bytes);
    EXPECT_LE(memory.live_bytes(), bytes + bytes / 8 + 64);
    memory.release(block, bytes);
    EXPECT_EQ(memory.live_bytes(), 0);
  }
}

TEST(Memory, PeakIsOfTheTimeSinceItsReset) {
  Memory memory;
  void* a = memory.allocate(1 << 12);
  void* b = memory.allocate(1 << 13);
  memory.release(b, 1 << 13);
  EXPECT_EQ(memory.peak_bytes(), (1 << 12) + (1 << 13));
  memory.reset_peak();
  EXPECT_EQ(memory.peak_bytes(), 1 << 12);
  void* c = memory.allocate(64);
  EXPECT_EQ(memory.peak_bytes(), (1 << 12) + 64);
  memory.release(c, 64);
  memory.release(a, 1 << 12);
}

TEST(Memory, RefusesSizesThatCannotExist) {
  Memory memory;
  testing::expect_error(ErrorCode::kInternal, {"negative"}, [&] { memory.allocate(-1); });
  for (const int64_t bytes : {int64_t{1} << 56, std::numeric_limits<int64_t>::max()})
    testing::expect_error(ErrorCode::kOutOfMemory, {"cannot allocate"},
                          [&] { memory.allocate(bytes); });
  EXPECT_EQ(memory.live_bytes(), 0);
}

TEST(Memory, ServesSeveralThreads) {
  Memory memory;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&memory, i] {
      for (int repeat = 0; repeat < 500; ++repeat) {
        const int64_t bytes = 64 << (repeat % 7);
        auto* block = static_cast<uint8_t*>(memory.allocate(bytes));
        block[0] = block[bytes - 1] = static_cast<uint8_t>(i);
        std::this_thread::yield();
        EXPECT_EQ(block[0], i);
        EXPECT_EQ(block[bytes - 1], i);
        memory.release(block, bytes);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(memory.live_bytes(), 0);
  memory.trim();
}

}  // namespace
}  // namespace longship
