#include "runtime/device_copy.h"

#include "runtime/copy_axes.h"
#include "runtime/cuda/cuda_copy.h"

namespace longship {
namespace {

bool is_on_gpu(const Tensor& tensor) {
  return tensor.device().kind == DeviceKind::kCuda;
}

// Both on one GPU and in the order of one stream.
void copy_within_gpu(const Tensor& to, const Tensor& from) {
  LONGSHIP_CHECK(
      to.dtype() == from.dtype() || (is_floating(to.dtype()) && is_floating(from.dtype())),
      "copy of {} into {}", dtype_name(from.dtype()), dtype_name(to.dtype()));
  const std::vector<CopyAxis> axes = joined_copy_axes(to.shape(), to.strides(), from.strides());
  const StreamHandle stream = to.memory()->stream()->handle();
  const bool is_run = axes.empty() || (axes.size() == 1 && axes[0].is_run());
  if (is_run && to.dtype() == from.dtype()) {
    enqueue_copy(to.address(), from.address(), to.num_bytes(), stream);
  } else {
    CudaStridedCopy copy{.to = to.address(),
                         .from = from.address(),
                         .to_dtype = to.dtype(),
                         .from_dtype = from.dtype(),
                         .num_elements = to.numel()};
    LONGSHIP_CHECK(axes.size() <= std::size(copy.axes), "copy of shape {} with {} separate strides",
                   shape_string(to.shape()), axes.size());
    for (const CopyAxis& axis : axes) copy.axes[copy.num_axes++] = axis;
    enqueue_strided_copy(copy, stream);
  }
}

// What is enqueued on `stream` from now on comes after the work of the streams of both memories.
void begin_after_both(const Tensor& to, const Tensor& from, const Stream& stream) {
  for (const Tensor* side : {&to, &from}) {
    const auto& owner = side->memory()->stream();
    if (owner != nullptr && owner.get() != &stream) stream.wait(owner->record());
  }
}

}  // namespace

void device_copy(const Tensor& to, const Tensor& from) {
  LONGSHIP_CHECK(to.has_elements() && from.has_elements(), "copy of elements that are not there");
  if (is_on_gpu(to) && to.memory()->stream() == from.memory()->stream())
    return copy_within_gpu(to, from);
  const Tensor packed = from.to(to.dtype()).contiguous();
  if (!to.is_contiguous()) {
    const Tensor staged = Tensor::empty(to.memory(), to.shape(), to.dtype());
    device_copy(staged, packed);
    return to.copy_from(staged);
  }
  const auto& stream = (is_on_gpu(to) ? to : packed).memory()->stream();
  if (is_on_gpu(to) && is_on_gpu(packed)) return copy_async(to, packed, stream);
  begin_after_both(to, packed, *stream);
  enqueue_copy(to.address(), packed.address(), to.num_bytes(), stream->handle());
  stream->record().synchronize();
}

void copy_async(const Tensor& to, const Tensor& from, const std::shared_ptr<const Stream>& stream) {
  LONGSHIP_CHECK(to.shape() == from.shape() && to.dtype() == from.dtype() && to.is_contiguous() &&
                     from.is_contiguous(),
                 "copy of {} {} into {} {} without packing", dtype_name(from.dtype()),
                 shape_string(from.shape()), dtype_name(to.dtype()), shape_string(to.shape()));
  if (to.numel() == 0 || !to.has_elements()) return;
  LONGSHIP_CHECK(from.has_elements(), "copy of elements that are not there");
  begin_after_both(to, from, *stream);
  to.used_on(stream);
  from.used_on(stream);
  enqueue_copy(to.address(), from.address(), to.num_bytes(), stream->handle());
}

}  // namespace longship
