#include "runtime/host_copy.h"

#include "runtime/device_copy.h"
#include "runtime/gpu.h"

namespace longship {

Context host_context(const Context& ctx) {
  Context host = ctx;
  host.tape = nullptr;
  host.gpu = nullptr;
  if (ctx.gpu != nullptr) host.memory = ctx.gpu->pinned;
  return host;
}

Tensor start_download(const Context& ctx, const Tensor& tensor) {
  if (ctx.gpu == nullptr) return tensor;
  const Tensor packed = tensor.contiguous();
  const Tensor copy = Tensor::empty(ctx.gpu->pinned, packed.shape(), packed.dtype());
  copy_async(copy, packed, ctx.gpu->compute);
  return copy;
}

}  // namespace longship
