// Memory of a GPU: what is reused when, and that it is not asked for again.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "runtime/autograd/tape.h"
#include "runtime/cuda/cuda_copy.h"
#include "runtime/device_copy.h"
#include "runtime/gpu.h"
#include "runtime/ops/rms_norm.h"
#include "tests/support/expect_error.h"
#include "tests/support/stream_gate.h"

namespace longship {
namespace {

using testing::StreamGate;

const std::shared_ptr<Memory> kHost = std::make_shared<Memory>();

Tensor filled(const std::shared_ptr<Memory>& memory, int64_t count, uint8_t value) {
  const Tensor tensor = Tensor::empty(memory, {count}, DType::kU8);
  memory->fill(tensor.address(), value, count);
  return tensor;
}

// The value of every element, or -1 if they differ.
int only_value(const Tensor& tensor) {
  const Tensor host = tensor.to(kHost);
  const uint8_t* data = host.data<uint8_t>();
  for (int64_t i = 1; i < host.numel(); ++i)
    if (data[i] != data[0]) return -1;
  return data[0];
}

constexpr int64_t kCount = 8 << 20;

TEST(MemoryOnGpu, KeepsABlockThatAnotherStreamStillReads) {
  const Gpu gpu(0);
  Tensor source = filled(gpu.memory, kCount, 1);
  const Tensor target = filled(gpu.memory, kCount, 0);
  const std::byte* const address = source.address();
  StreamGate gate(*gpu.communication);
  copy_async(target, source, gpu.communication);
  source = Tensor();
  const Tensor next = filled(gpu.memory, kCount, 2);
  EXPECT_EQ(next.address(), address) << "the block was not reused: nothing is proved";
  EXPECT_FALSE(gpu.compute->record().has_passed()) << "the block was overwritten too early";
  gate.open();
  gpu.compute->synchronize();
  gpu.communication->synchronize();
  EXPECT_EQ(only_value(target), 1);
  EXPECT_EQ(only_value(next), 2);
}

// The same without naming the other stream: the test above would notice.
TEST(MemoryOnGpu, ReusesAtOnceWhatNoOtherStreamIsKnownToUse) {
  const Gpu gpu(0);
  Tensor source = filled(gpu.memory, kCount, 1);
  const Tensor target = filled(gpu.memory, kCount, 0);
  gpu.compute->synchronize();
  StreamGate gate(*gpu.communication);
  enqueue_copy(target.address(), source.address(), kCount, gpu.communication->handle());
  source = Tensor();
  const Tensor next = filled(gpu.memory, kCount, 2);
  gpu.compute->synchronize();
  gate.open();
  gpu.communication->synchronize();
  EXPECT_EQ(only_value(target), 2);
}

TEST(MemoryOnGpu, WaitsForEveryPartOfAJoinedBlock) {
  for (const int read : {0, 1}) {
    const Gpu gpu(0);
    Tensor parts[2] = {filled(gpu.memory, kCount, 1), filled(gpu.memory, kCount, 1)};
    const Tensor rest = filled(gpu.memory, 48 << 20, 0);  // of the segment
    const Tensor target = filled(gpu.memory, kCount, 0);
    const std::byte* const address = parts[0].address();
    StreamGate gate(*gpu.communication);
    copy_async(target, parts[read], gpu.communication);
    for (Tensor& part : parts) part = Tensor();
    const Tensor joined = filled(gpu.memory, 2 * kCount, 2);
    EXPECT_EQ(joined.address(), address) << "the block was not reused: nothing is proved";
    EXPECT_FALSE(gpu.compute->record().has_passed());
    gate.open();
    gpu.compute->synchronize();
    EXPECT_EQ(only_value(target), 1);
    EXPECT_EQ(only_value(joined), 2);
  }
}

TEST(MemoryOnGpu, KeepsAPinnedBlockUntilItsCopyIsDone) {
  const Gpu gpu(0);
  Tensor source = filled(gpu.pinned, kCount, 5);
  const std::byte* const address = source.address();
  const Tensor target = filled(gpu.memory, kCount, 0);
  gpu.compute->synchronize();
  StreamGate gate(*gpu.copy);
  copy_async(target, source, gpu.copy);
  source = Tensor();
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    gate.open();
  });
  const Tensor next = filled(gpu.pinned, kCount, 6);  // waits
  opener.join();
  EXPECT_EQ(next.address(), address) << "the block was not reused: nothing is proved";
  gpu.copy->synchronize();
  EXPECT_EQ(only_value(target), 5);
}

TEST(MemoryOnGpu, UploadDoesNotWaitForTheGpu) {
  const Context ctx = gpu_context(0);
  upload(ctx, Tensor::zeros(kHost, {1000}, DType::kU8));  // gets the memory
  ctx.gpu->compute->synchronize();
  const Tensor values = filled(kHost, 1000, 7);
  StreamGate gate(*ctx.gpu->compute);
  const Tensor copy = upload(ctx, values);
  EXPECT_FALSE(ctx.gpu->compute->record().has_passed());
  gate.open();
  EXPECT_EQ(only_value(copy), 7);
}

TEST(MemoryOnGpu, AsksTheSystemNoMoreAfterTheFirstStep) {
  Context ctx = gpu_context(0);
  Tape tape;
  ctx.tape = &tape;
  const Tensor weight = ctx.zeros({1024}, DType::kBF16);
  int64_t after_first = 0;
  for (int step = 0; step < 5; ++step) {
    for (const int64_t tokens : {4096, 1000, 70000, 33}) {
      const Variable x = Variable::leaf(ctx.zeros({tokens, 1024}, DType::kBF16));
      const Variable w = Variable::leaf(weight);
      const Variable y = rms_norm(ctx, rms_norm(ctx, x, w, 1e-5), weight, 1e-5);
      const Tensor sent = ctx.empty(y.shape(), y.dtype());
      copy_async(sent, y.value(), ctx.gpu->communication);
      tape.backward(ctx, y, y.value());
    }
    if (step == 0) after_first = ctx.memory->num_system_allocations();
  }
  ctx.gpu->compute->synchronize();
  EXPECT_GT(after_first, 0);
  EXPECT_EQ(ctx.memory->num_system_allocations(), after_first);
}

TEST(MemoryOnGpu, PlanTellsWhatAStepReserves) {
  Context real = gpu_context(0), plan;
  plan.memory = counting_memory(real.memory->device());
  for (Context* ctx : {&real, &plan}) {
    Tape tape;
    ctx->tape = &tape;
    const Variable x = Variable::leaf(ctx->zeros({30000, 1024}, DType::kBF16));
    const Variable w = Variable::leaf(ctx->zeros({1024}, DType::kBF16));
    const Variable y = rms_norm(*ctx, rms_norm(*ctx, x, w, 1e-5), w.value(), 1e-5);
    tape.backward(*ctx, y, y.value());
    ctx->tape = nullptr;
  }
  EXPECT_EQ(real.memory->peak_bytes(), plan.memory->peak_bytes());
  EXPECT_EQ(real.memory->reserved_bytes(), plan.memory->reserved_bytes());
}

TEST(MemoryOnGpu, OutOfMemoryNamesGpuAndSizesAndCanBeSurvived) {
  const Gpu gpu(0);
  const Tensor live = filled(gpu.memory, 3 << 20, 1);
  testing::expect_error(ErrorCode::kOutOfMemory,
                        {"GPU 0", "cannot allocate 8388608.0 MiB", "3.0 MiB already live",
                         "free on the GPU", "next:"},
                        [&] { Tensor::empty(gpu.memory, {int64_t{1} << 43}, DType::kU8); });
  EXPECT_EQ(only_value(filled(gpu.memory, 1 << 20, 9)), 9);
  EXPECT_EQ(only_value(live), 1);
}

TEST(MemoryOnGpu, PoisonIsNan) {
  const Gpu gpu(0);
  gpu.memory->set_poison(true);
  const Tensor tensor = Tensor::empty(gpu.memory, {33}, DType::kBF16).to(DType::kF32).to(kHost);
  for (int64_t i = 0; i < 33; ++i) EXPECT_TRUE(std::isnan(tensor.data<float>()[i]));
}

TEST(MemoryOnGpu, HostCodeIsRefusedItsElements) {
  const Gpu gpu(0);
  const Tensor tensor = Tensor::zeros(gpu.memory, {4}, DType::kF32);
  testing::expect_error(ErrorCode::kInternal, {"GPU 0"}, [&] { tensor.data<float>(); });
}

}  // namespace
}  // namespace longship
