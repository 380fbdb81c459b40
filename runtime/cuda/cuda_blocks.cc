#include "runtime/cuda/cuda_blocks.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <utility>

#include "runtime/cuda/cuda_error.h"
#include "runtime/error.h"

namespace longship {
namespace {

// The block, or null where memory is short; other errors throw.
void* block_or_null(cudaError_t status, void* block, const char* operation) {
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // forgotten: who asked will report it
    return nullptr;
  }
  check_cuda(status, operation);
  return block;
}

class DeviceBlocks final : public BlockSource {
 public:
  explicit DeviceBlocks(std::shared_ptr<const Stream> stream) : stream_(std::move(stream)) {
    cudaDeviceProp properties;
    check_cuda(cudaGetDeviceProperties(&properties, device().index), "read its properties");
    name_ = fmt::format("memory of {} ({})", device_name(device()), properties.name);
  }

  Device device() const override { return stream_->device(); }
  std::shared_ptr<const Stream> stream() const override { return stream_; }
  std::string name() const override { return name_; }

  std::string room() const override {
    size_t free = 0, total = 0;
    select();
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) return {};
    return fmt::format("{:.1f} of {:.1f} MiB free on the GPU", static_cast<double>(free) / 1048576,
                       static_cast<double>(total) / 1048576);
  }

  void* allocate(int64_t bytes) override {
    select();
    void* block = nullptr;
    const cudaError_t status = cudaMalloc(&block, static_cast<size_t>(bytes));
    return block_or_null(status, block, "allocate memory");
  }

  // Waits for all work of the GPU.
  void free(void* block) noexcept override {
    cudaSetDevice(device().index);
    cudaFree(block);
  }

  void fill(void* block, uint8_t value, int64_t bytes) override {
    check_cuda(cudaMemsetAsync(block, value, static_cast<size_t>(bytes), stream_->handle()),
               "fill memory");
  }

  void wait_for(std::span<const Event> events) override {
    for (const Event& event : events) stream_->wait(event);
  }

 private:
  void select() const { check_cuda(cudaSetDevice(device().index), "use " + name_); }

  std::shared_ptr<const Stream> stream_;
  std::string name_;
};

class PinnedBlocks final : public BlockSource {
 public:
  explicit PinnedBlocks(Device gpu) : gpu_(gpu) {}

  Device device() const override { return {}; }
  std::string name() const override { return "pinned host memory"; }

  void* allocate(int64_t bytes) override {
    check_cuda(cudaSetDevice(gpu_.index), "use " + device_name(gpu_));
    void* block = nullptr;
    const cudaError_t status =
        cudaHostAlloc(&block, static_cast<size_t>(bytes), cudaHostAllocPortable);
    return block_or_null(status, block, "allocate pinned host memory");
  }

  void free(void* block) noexcept override { cudaFreeHost(block); }

  void fill(void* block, uint8_t value, int64_t bytes) override {
    std::memset(block, value, static_cast<size_t>(bytes));
  }

  void wait_for(std::span<const Event> events) override {
    for (const Event& event : events) event.synchronize();
  }

 private:
  Device gpu_;
};

}  // namespace

std::unique_ptr<BlockSource> device_blocks(std::shared_ptr<const Stream> stream) {
  return std::make_unique<DeviceBlocks>(std::move(stream));
}

std::unique_ptr<BlockSource> pinned_blocks(Device gpu) {
  return std::make_unique<PinnedBlocks>(gpu);
}

}  // namespace longship
