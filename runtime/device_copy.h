// Copies where a GPU is on one side or both.
#pragma once

#include "runtime/tensor.h"

namespace longship {

// The engine of Tensor::copy_from() for GPUs: same shape, any strides and floating dtypes. Within a
// GPU and between GPUs it is enqueued on the stream of `to`'s memory; with the host on one side,
// the host waits until it is done.
void device_copy(const Tensor& to, const Tensor& from);

// Enqueues a copy on `stream`, behind what the streams of both memories hold so far, and returns.
// Both tensors are contiguous, of one shape and dtype, and are kept until the copy is done; an
// event of `stream` says when that is. Runs beside the host's own work if the host side is pinned.
void copy_async(const Tensor& to, const Tensor& from, const std::shared_ptr<const Stream>& stream);

}  // namespace longship
