// What of GPUs can be checked without one: planning, and refusals.
#include "runtime/gpu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/autograd/tape.h"
#include "runtime/cuda/device_info.h"
#include "runtime/ops/rms_norm.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 2};

TEST(CountingMemory, CountsAStepWithoutElements) {
  const auto memory = counting_memory(kGpu);
  Tape tape;
  Context ctx;
  ctx.memory = memory;
  ctx.tape = &tape;
  const int64_t R = int64_t{1} << 30, D = 4096, x_bytes = 2 * R * D;  // 8 TiB
  {
    const Variable x = Variable::leaf(ctx.empty({R, D}, DType::kBF16));
    const Variable weight = Variable::leaf(ctx.empty({D}, DType::kBF16));
    const Variable y = rms_norm(ctx, x, weight, 1e-5);
    EXPECT_EQ(y.value().device(), kGpu);
    EXPECT_FALSE(y.value().has_elements());
    EXPECT_EQ(memory->live_bytes(), 2 * x_bytes + 2 * D + 4 * R);
    tape.backward(ctx, y, ctx.zeros({R, D}, DType::kBF16));
    EXPECT_EQ(weight.gradient()->sum().shape(), Shape{D});
    // x, y, dy, dx; its leaf keeps dx in fp32 for a while beside the one in bf16.
    EXPECT_GE(memory->peak_bytes(), 4 * x_bytes);
    EXPECT_LE(memory->peak_bytes(), 4 * x_bytes + 2 * x_bytes + (int64_t{1} << 33));
  }
  EXPECT_EQ(memory->live_bytes(), 0);
  EXPECT_GE(memory->reserved_bytes(), memory->peak_bytes());
}

TEST(CountingMemory, RefusesToReadWhatIsNotThere) {
  const auto memory = counting_memory(kGpu);
  const Tensor tensor = Tensor::zeros(memory, {4}, DType::kF32);
  testing::expect_error(ErrorCode::kInternal, {"planning"}, [&] { tensor.data<float>(); });
  const Tensor host = Tensor::zeros(std::make_shared<Memory>(), {4}, DType::kF32);
  testing::expect_error(ErrorCode::kInternal, {"not there"}, [&] { host.copy_from(tensor); });
  tensor.copy_from(host);  // nothing to do
}

TEST(Gpu, TensorsOnTwoDevicesAreRefusedByName) {
  Context ctx;
  const Tensor x = ctx.zeros({2, 8}, DType::kF32);
  const Tensor weight = Tensor::zeros(counting_memory(kGpu), {8}, DType::kF32);
  testing::expect_error(ErrorCode::kInternal, {"rms_norm", "the CPU", "GPU 2"},
                        [&] { rms_norm(ctx, x, weight, 1e-5); });
}

TEST(Gpu, OneThatIsNotThereIsAConfigurationError) {
  const auto ordinal = static_cast<int>(cuda_info().gpus.size());
  testing::expect_error(ErrorCode::kConfig, {}, [&] { gpu_context(ordinal); });
}

TEST(Gpu, UploadOnTheCpuIsTheTensorItself) {
  Context ctx;
  const Tensor tensor = Tensor::zeros(std::make_shared<Memory>(), {4}, DType::kF32);
  EXPECT_EQ(upload(ctx, tensor).raw(), tensor.raw());
}

TEST(Memory, PoisonIsNanInEveryFloatingDtype) {
  Context ctx;
  ctx.memory->set_poison(true);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const Tensor tensor = ctx.empty({37}, dtype).to(DType::kF64);
    for (int64_t i = 0; i < 37; ++i) EXPECT_TRUE(std::isnan(tensor.data<double>()[i]));
  }
  EXPECT_EQ(ctx.zeros({1}, DType::kF32).data<float>()[0], 0);
}

}  // namespace
}  // namespace longship
