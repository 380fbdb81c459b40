#include "attention/gpu_attention_limits.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace longship {
namespace {

using testing::expect_error;

constexpr AttentionSizes kUsual{
    .num_heads = 32, .num_kv_heads = 8, .head_size = 128, .value_size = 128};

AttentionSizes with_head_sizes(int64_t head_size, int64_t value_size) {
  AttentionSizes sizes = kUsual;
  sizes.head_size = head_size;
  sizes.value_size = value_size;
  return sizes;
}

TEST(GpuAttentionLimits, TakesUsualHeads) {
  EXPECT_NO_THROW(require_gpu_attention("layer 3", kUsual));
  for (int64_t size : {16, 64, 80, 96, 192, 256})
    EXPECT_NO_THROW(require_gpu_attention("layer 3", with_head_sizes(size, size)));
  EXPECT_NO_THROW(require_gpu_attention("layer 3", with_head_sizes(192, 128)));
}

TEST(GpuAttentionLimits, RefusesByName) {
  for (const auto& [head_size, value_size] :
       {std::pair<int64_t, int64_t>{72, 72}, {8, 8}, {272, 272}, {128, 120}, {128, 192}, {128, 0}})
    expect_error(ErrorCode::kConfig, {"layer 3", "multiples of 16", std::to_string(head_size)},
                 [&] { require_gpu_attention("layer 3", with_head_sizes(head_size, value_size)); });
  AttentionSizes sizes = kUsual;
  sizes.dtype = DType::kF32;
  expect_error(ErrorCode::kConfig, {"layer 3", "bf16", "fp32"},
               [&] { require_gpu_attention("layer 3", sizes); });
  sizes = kUsual;
  sizes.num_kv_heads = 5;
  expect_error(ErrorCode::kConfig, {"layer 3", "32 and 5"},
               [&] { require_gpu_attention("layer 3", sizes); });
}

}  // namespace
}  // namespace longship
