// One GPU as a rank uses it: its streams, its memory and its libraries.
#pragma once

#include <memory>
#include <span>
#include <type_traits>

#include "runtime/context.h"
#include "runtime/cuda/stream.h"
#include "runtime/type_map.h"

namespace longship {

class Gemm;  // runtime/cuda/gemm.h

struct Gpu {
  // Throws Error(kConfig) if there is no such GPU or the build has no CUDA.
  explicit Gpu(int ordinal);

  Device device;
  std::shared_ptr<const Stream> compute, communication, copy;
  std::shared_ptr<Memory> memory;  // of the GPU, in the order of `compute`
  std::shared_ptr<Memory> pinned;  // of the host, for copies that run beside the host's own work
  std::shared_ptr<const Gemm> gemm;
  // What libraries outside of runtime/ keep for this GPU and its streams.
  std::shared_ptr<TypeMap> libraries = std::make_shared<TypeMap>();
};

// A context whose tensors lie on this GPU and whose ops run there, on gpu->compute.
Context gpu_context(int ordinal);

// Memory of a device that hands out addresses without anything behind them, cut as that of a GPU is
// cut, so that reserved_bytes() and peak_bytes() tell beforehand what a step will need. Copies and
// fills do nothing, ops only allocate. The device need not be there.
std::shared_ptr<Memory> counting_memory(Device device);

// A copy of a host tensor in ctx.memory; the tensor itself where that is the host's. The host does
// not wait: the elements go by way of pinned memory.
Tensor upload(const Context& ctx, const Tensor& tensor);

// The bytes of host structs that a kernel reads, such as a table of tensors, in ctx.memory.
template <class T>
Tensor upload_table(const Context& ctx, std::span<const T> table) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto bytes = std::as_bytes(table);
  return upload(
      ctx, Tensor::from<uint8_t>(std::make_shared<Memory>(), {static_cast<int64_t>(bytes.size())},
                                 {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
}

// Where the kernels of an op are enqueued: ctx.gpu->compute. Error(kInternal) without a GPU.
StreamHandle compute_stream(const Context& ctx);

}  // namespace longship
