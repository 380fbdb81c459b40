// Copies between host and GPU and within a GPU give what the CPU's copies give, bit for bit.
#include "runtime/device_copy.h"

#include <gtest/gtest.h>

#include <functional>

#include "runtime/gpu.h"
#include "runtime/random.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;

const std::shared_ptr<Memory> kHost = std::make_shared<Memory>();

constexpr DType kAllDTypes[] = {DType::kF32, DType::kBF16, DType::kF64,
                                DType::kI32, DType::kI64,  DType::kU8};

// Random bytes; floating dtypes hold normals.
Tensor random(Shape shape, DType dtype, uint64_t seed) {
  const Tensor tensor = Tensor::empty(kHost, std::move(shape), dtype);
  if (is_floating(dtype)) {
    const Tensor wide = Tensor::empty(kHost, tensor.shape(), DType::kF64);
    for (int64_t i = 0; i < wide.numel(); ++i)
      wide.data<double>()[i] = normal(seed, 1, static_cast<uint64_t>(i));
    tensor.copy_from(wide);
    return tensor;
  }
  for (int64_t i = 0; i < tensor.num_bytes(); ++i)
    tensor.raw()[i] = static_cast<std::byte>(uniform_index(seed, 2, static_cast<uint64_t>(i), 256));
  return tensor;
}

TEST(DeviceCopyOnGpu, RoundTripKeepsEveryBit) {
  const Gpu gpu(0);
  gpu.memory->set_poison(true);
  for (DType dtype : kAllDTypes)
    for (const Shape& shape : {Shape{}, {1}, {0, 3}, {1000003}, {3, 5, 7}}) {
      const Tensor host = random(shape, dtype, 1);
      EXPECT_TRUE(bitwise_equal(host.to(gpu.memory).to(kHost), host)) << dtype_name(dtype);
      EXPECT_TRUE(bitwise_equal(host.to(gpu.pinned).to(gpu.memory).to(gpu.pinned), host));
    }
}

// Views of a [6, 5, 4, 30] tensor, or a wider one, that lay out elements in every way.
const std::function<Tensor(const Tensor&)> kViews[] = {
    [](const Tensor& t) { return t; },
    [](const Tensor& t) { return t.slice(0, 1, 3); },
    [](const Tensor& t) { return t.slice(3, 3, 17); },
    [](const Tensor& t) { return t.slice(2, 1, 1); },
    [](const Tensor& t) { return t.transpose(0, 1); },
    [](const Tensor& t) { return t.transpose(1, 2).slice(3, 8, 16); },
    [](const Tensor& t) { return t.transpose(2, 3); },
    [](const Tensor& t) { return t.transpose(0, 3).slice(1, 1, 4).slice(0, 2, 20); },
    [](const Tensor& t) { return t.transpose(0, 2).transpose(1, 3); },
    [](const Tensor& t) { return t.slice(0, 2, 1).slice(1, 1, 1).slice(2, 0, 1).slice(3, 7, 1); },
};

void expect_equal_views(const Gpu& gpu, const Shape& shape) {
  for (DType dtype : kAllDTypes) {
    const Tensor host = random(shape, dtype, 2);
    const Tensor device = host.to(gpu.memory);
    for (const auto& view : kViews) {
      const Tensor expected = view(host).contiguous();
      EXPECT_TRUE(bitwise_equal(view(device).contiguous().to(kHost), expected));
      EXPECT_TRUE(bitwise_equal(view(device).to(kHost), expected)) << "packed on the way";
      // Into a view, leaving the rest as it was.
      const Tensor into = Tensor::zeros(gpu.memory, host.shape(), dtype);
      const Tensor into_host = Tensor::zeros(kHost, host.shape(), dtype);
      view(into).copy_from(view(device));
      view(into_host).copy_from(view(host));
      EXPECT_TRUE(bitwise_equal(into.to(kHost), into_host));
      into.fill_zero();
      view(into).copy_from(expected);  // from the host
      EXPECT_TRUE(bitwise_equal(into.to(kHost), into_host));
      view(into).fill_zero();
      EXPECT_TRUE(bitwise_equal(into.to(kHost), Tensor::zeros(kHost, host.shape(), dtype)));
    }
  }
}

TEST(DeviceCopyOnGpu, StridedViewsEqualThoseOfTheCpu) {
  const Gpu gpu(0);
  gpu.memory->set_poison(true);
  // The more bytes rows are a multiple of, the wider are the words that move.
  for (int64_t columns : {30, 33, 36, 64}) expect_equal_views(gpu, {6, 5, 4, columns});
}

TEST(DeviceCopyOnGpu, ConvertsFloatingDTypesAsTheCpuDoes) {
  const Gpu gpu(0);
  for (DType from : {DType::kF32, DType::kBF16, DType::kF64})
    for (DType to : {DType::kF32, DType::kBF16, DType::kF64}) {
      const Tensor host = random({33, 65}, from, 3);
      const Tensor device = host.to(gpu.memory);
      EXPECT_TRUE(bitwise_equal(device.to(to).to(kHost), host.to(to)))
          << dtype_name(from) << " to " << dtype_name(to);
      const Tensor turned = Tensor::empty(gpu.memory, {65, 33}, to);
      turned.copy_from(device.transpose(0, 1));
      EXPECT_TRUE(bitwise_equal(turned.to(kHost), host.transpose(0, 1).to(to)));
    }
}

TEST(DeviceCopyOnGpu, FromTakesHostValues) {
  const Gpu gpu(0);
  const int32_t values[] = {3, -1, 4, 1, -5, 9};
  const Tensor device = Tensor::from<int32_t>(gpu.memory, {2, 3}, values);
  EXPECT_EQ(device.device(), gpu.device);
  EXPECT_TRUE(bitwise_equal(device.to(kHost), Tensor::from<int32_t>(kHost, {2, 3}, values)));
}

TEST(DeviceCopyOnGpu, AsyncCopyComesAfterTheWorkOfBothMemories) {
  const Gpu gpu(0);
  const Tensor host = random({1 << 22}, DType::kF32, 4).to(gpu.pinned);
  const Tensor back = Tensor::zeros(gpu.pinned, host.shape(), DType::kF32);
  const Tensor device = Tensor::empty(gpu.memory, host.shape(), DType::kF32);
  for (int repeat = 0; repeat < 20; ++repeat) {
    device.fill_zero();  // on the compute stream
    copy_async(device, host, gpu.copy);
    copy_async(back, device, gpu.copy);
    gpu.copy->record().synchronize();
    ASSERT_TRUE(bitwise_equal(back, host));
    back.fill_zero();
    gpu.compute->wait(gpu.copy->record());
  }
}

}  // namespace
}  // namespace longship
