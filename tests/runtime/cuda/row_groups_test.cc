// What kernels take for granted of how rows are spread over threads.
#include "runtime/cuda/row_groups.h"

#include <gtest/gtest.h>

#include "runtime/ops/rms_norm_cuda.h"

namespace longship {
namespace {

constexpr int kWarp = 32;
constexpr RowKernelTraits kForward = kRmsNormForwardRows, kBackward = kRmsNormBackwardRows;

void expect_fit(DType dtype, int64_t R, int64_t D, const RowKernelTraits& traits) {
  SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " " << R << " x " << D);
  const RowGroups groups = row_groups(dtype, R, D, traits);
  ASSERT_GE(groups.num_groups, 1);
  if (groups.vectors_per_thread == 0) return;
  const int64_t num_vectors = D * dtype_size(dtype) / 16;
  EXPECT_GE(int64_t{groups.threads_per_row} * groups.vectors_per_thread, num_vectors);
  EXPECT_LE(groups.block_threads(), row_block_threads(groups.vectors_per_thread));
  EXPECT_EQ(groups.block_threads() % kWarp, 0);
  if (groups.threads_per_row > kWarp) {
    EXPECT_EQ(groups.threads_per_row % kWarp, 0);
    EXPECT_LE(groups.rows_per_block, 15);  // named barriers
  } else {
    EXPECT_EQ(kWarp % groups.threads_per_row, 0);
  }
  if (groups.blocks_per_row > 1) {
    EXPECT_EQ(groups.rows_per_block, 1);
    EXPECT_EQ(groups.vectors_per_thread, traits.long_row_vectors);
  }
  // Every block has a row.
  EXPECT_LT((groups.num_groups - 1) * groups.rows_per_block, std::max<int64_t>(R, 1));
}

TEST(RowGroups, FitBlocksOfThreads) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const int64_t R : {0, 1, 3, 4, 5, 31, 131, 132, 133, 529, 4096, 65536, 1 << 22})
      for (int64_t D = 1; D < 70000; D += D < 1100 ? 1 : 251)
        for (const RowKernelTraits& traits : {kForward, kBackward}) expect_fit(dtype, R, D, traits);
}

TEST(RowGroups, SpreadFewRowsOverAllMultiprocessors) {
  EXPECT_EQ(row_groups(DType::kBF16, 132, 4096, kBackward).num_groups, 132);
  EXPECT_EQ(row_groups(DType::kBF16, 264, 4096, kBackward).num_groups, 132);
  EXPECT_EQ(row_groups(DType::kBF16, 1 << 20, 4096, kBackward).num_groups, 132);
}

TEST(RowGroups, KeepMemoryBusyWithoutMoreThanThat) {
  // 32 KB of rows on their way to a block, of one tensor and of two.
  EXPECT_EQ(row_groups(DType::kBF16, 1 << 20, 2048, kForward).rows_per_block, 8);
  EXPECT_EQ(row_groups(DType::kBF16, 1 << 20, 2048, kBackward).rows_per_block, 4);
  EXPECT_EQ(row_groups(DType::kBF16, 1 << 20, 5120, kBackward).rows_per_block, 2);
  EXPECT_EQ(row_groups(DType::kF32, 1 << 20, 576, kBackward).rows_per_block, 8);
  EXPECT_EQ(row_groups(DType::kF32, 1 << 20, 8192, kBackward).rows_per_block, 1);
}

TEST(RowGroups, TakeLongRowsInOneBlockWhereTheyFit) {
  EXPECT_EQ(row_groups(DType::kBF16, 4096, 16384, kBackward).blocks_per_row, 1);
  EXPECT_EQ(row_groups(DType::kF32, 4096, 16384, kBackward).blocks_per_row, 2);
  EXPECT_EQ(row_groups(DType::kF32, 4096, 16384, kForward).blocks_per_row, 1);
  EXPECT_EQ(row_groups(DType::kF32, 4096, 16384, kForward).threads_per_row, 1024);
}

TEST(RowGroups, LeaveOutWhatRowKernelsCannotDo) {
  // No whole vectors; too long; too many.
  EXPECT_EQ(row_groups(DType::kBF16, 10, 1021, kBackward).vectors_per_thread, 0);
  EXPECT_EQ(row_groups(DType::kBF16, 10, 1 << 18, kBackward).vectors_per_thread, 0);
  EXPECT_EQ(row_groups(DType::kBF16, (1 << 30) + 1, 64, kBackward).vectors_per_thread, 0);
  EXPECT_EQ(row_groups(DType::kBF16, 1 << 30, 64, kBackward).vectors_per_thread, 1);
}

}  // namespace
}  // namespace longship
