// The elements of tensors as the bytes that files hold, wherever the tensors lie. Those of a GPU go
// by way of host memory, a piece at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "runtime/tensor.h"

namespace longship {

// Calls f on the bytes of a tensor (any strides), in order: all of them at once, or for a tensor of
// a GPU in pieces of at most 64 MiB. Waits for the GPU.
void read_tensor_bytes(const Tensor& tensor,
                       const std::function<void(std::span<const std::byte>)>& f);

// Calls f(offset, bytes) to fill the bytes of a contiguous tensor from `offset` on, in the same
// pieces and order.
void fill_tensor_bytes(const Tensor& tensor,
                       const std::function<void(int64_t, std::span<std::byte>)>& f);

}  // namespace longship
