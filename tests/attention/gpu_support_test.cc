#include "attention/gpu_support.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

MixerDescriptor full(int64_t head_size) {
  MixerDescriptor mixer{.backend = "full"};
  mixer.softmax.num_heads = 4;
  mixer.softmax.num_kv_heads = 2;
  mixer.softmax.head_size = head_size;
  return mixer;
}

TEST(GpuSupport, TakesSoftmaxAttentionInBf16) {
  EXPECT_EQ(gpu_refusal(full(64), DType::kBF16), "");
  MixerDescriptor latent{.backend = "latent"};
  latent.latent.num_heads = 4;
  EXPECT_EQ(gpu_refusal(latent, DType::kBF16), "");
}

TEST(GpuSupport, SaysWhyNot) {
  EXPECT_NE(gpu_refusal(full(24), DType::kBF16).find("multiples of 16"), std::string::npos);
  EXPECT_NE(gpu_refusal(full(64), DType::kF32).find("bf16"), std::string::npos);
  const std::string linear = gpu_refusal({.backend = "gated_delta"}, DType::kBF16);
  EXPECT_NE(linear.find("`gated_delta`"), std::string::npos) << linear;
  EXPECT_NE(linear.find("CPU only"), std::string::npos) << linear;
}

}  // namespace
}  // namespace longship
