#include "launch/device_peaks.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

TEST(DevicePeaks, AreThoseOfTheNamedGpu) {
  EXPECT_EQ(device_peaks("NVIDIA H200").bf16_flops, 989.4e12);
  EXPECT_EQ(device_peaks("NVIDIA H200").memory_bytes_per_s, 4.8e12);
  EXPECT_EQ(device_peaks("NVIDIA H100 80GB HBM3").memory_bytes_per_s, 3.35e12);
  EXPECT_EQ(device_peaks("NVIDIA H100 PCIe").bf16_flops, 756e12);
  EXPECT_LT(device_peaks("NVIDIA H100 NVL").bf16_flops, 900e12);
}

TEST(DevicePeaks, OfOtherDevicesAreNotKnown) {
  EXPECT_EQ(device_peaks("NVIDIA GeForce RTX 4090").bf16_flops, 0);
  EXPECT_EQ(device_peaks("").link_bytes_per_s, 0);
}

}  // namespace
}  // namespace longship
