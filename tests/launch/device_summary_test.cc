#include "launch/device_summary.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

TEST(DeviceSummary, SaysThatABuildHasNoCuda) {
  EXPECT_NE(device_summary({}).find("not in this build"), std::string::npos);
}

TEST(DeviceSummary, SaysWhyThereIsNoGpu) {
  CudaInfo info;
  info.built = true;
  info.runtime_version = "13.0";
  info.cudnn_version = "9.19.0";
  info.nccl_version = "2.28.9";
  info.no_gpu_reason = "no driver";
  EXPECT_EQ(device_summary(info),
            "CUDA: runtime 13.0, cuDNN 9.19.0, NCCL 2.28.9, driver not found\n"
            "  no GPU: no driver; everything runs on the CPU");
}

TEST(DeviceSummary, ListsMemoryAndPeersOfEveryGpu) {
  CudaInfo info;
  info.built = true;
  info.runtime_version = "13.0";
  info.cudnn_version = "9.19.0";
  info.nccl_version = "2.28.9";
  info.driver_version = "13.1";
  info.gpus = {{0, "NVIDIA H200", "9.0", 132, int64_t{140} << 30, int64_t{139} << 30, {1, 2}},
               {1, "NVIDIA H200", "9.0", 132, int64_t{140} << 30, -1, {}}};
  EXPECT_EQ(device_summary(info),
            "CUDA: runtime 13.0, cuDNN 9.19.0, NCCL 2.28.9, driver for CUDA 13.1\n"
            "  GPU 0: NVIDIA H200, compute capability 9.0, 132 multiprocessors\n"
            "    memory       140.0 GiB, 139.0 GiB free\n"
            "    peer access  GPU 1, 2\n"
            "  GPU 1: NVIDIA H200, compute capability 9.0, 132 multiprocessors\n"
            "    memory       140.0 GiB, busy or not accessible\n"
            "    peer access  none");
}

}  // namespace
}  // namespace longship
