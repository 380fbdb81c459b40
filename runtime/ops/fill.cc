#include "runtime/ops/fill.h"

#include <algorithm>

#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
#include "runtime/ops/fill_cuda.h"

namespace longship {

void fill(const Context& ctx, const Tensor& tensor, double value) {
  LONGSHIP_CHECK(tensor.is_contiguous() && is_floating(tensor.dtype()), "fill of {} {}",
                 dtype_name(tensor.dtype()), shape_string(tensor.shape()));
  dispatch_device(
      tensor,
      [&] {
        dispatch_floating(tensor.dtype(), [&](auto tag) {
          using T = decltype(tag);
          std::fill_n(tensor.data<T>(), tensor.numel(),
                      static_cast<T>(static_cast<Accumulator<T>>(value)));
        });
      },
      [&] {
        fill_cuda({.dtype = tensor.dtype(),
                   .num_elements = tensor.numel(),
                   .value = static_cast<float>(value),
                   .elements = tensor.address()},
                  compute_stream(ctx));
      });
}

}  // namespace longship
