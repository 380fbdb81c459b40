#include "runtime/gpu.h"

#include "runtime/cuda/cuda_blocks.h"
#include "runtime/cuda/gemm.h"
#include "runtime/device_copy.h"
#include "runtime/memory/arena_pool.h"
#include "runtime/memory/counting_blocks.h"
#include "runtime/memory/size_class_pool.h"

namespace longship {

Gpu::Gpu(int ordinal)
    : device{DeviceKind::kCuda, ordinal},
      compute(std::make_shared<Stream>(device)),
      communication(std::make_shared<Stream>(device, StreamPriority::kHigh)),
      copy(std::make_shared<Stream>(device)),
      memory(std::make_shared<Memory>(std::make_unique<ArenaPool>(device_blocks(compute)))),
      pinned(std::make_shared<Memory>(std::make_unique<SizeClassPool>(pinned_blocks(device)))),
      gemm(std::make_shared<const Gemm>(device)) {}

Context gpu_context(int ordinal) {
  const auto gpu = std::make_shared<const Gpu>(ordinal);
  Context ctx;
  ctx.memory = gpu->memory;
  ctx.gpu = gpu;
  return ctx;
}

std::shared_ptr<Memory> counting_memory(Device device) {
  return std::make_shared<Memory>(
      std::make_unique<ArenaPool>(std::make_unique<CountingBlocks>(device)));
}

Tensor upload(const Context& ctx, const Tensor& tensor) {
  if (ctx.gpu == nullptr)
    return ctx.memory->device() == tensor.device() ? tensor : tensor.to(ctx.memory);
  const Tensor staged = Tensor::empty(ctx.gpu->pinned, tensor.shape(), tensor.dtype());
  staged.copy_from(tensor);
  const Tensor copy = ctx.empty(tensor.shape(), tensor.dtype());
  copy_async(copy, staged, ctx.gpu->compute);
  return copy;
}

StreamHandle compute_stream(const Context& ctx) {
  LONGSHIP_CHECK(ctx.gpu != nullptr, "an op on a GPU's tensors in a context of {}",
                 device_name(ctx.memory->device()));
  return ctx.gpu->compute->handle();
}

}  // namespace longship
