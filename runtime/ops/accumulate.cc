#include "runtime/ops/accumulate.h"

#include "runtime/parallel_for.h"

namespace longship {

void accumulate(const Context& ctx, const Tensor& into, const Tensor& from) {
  LONGSHIP_CHECK(into.shape() == from.shape() && into.dtype() == from.dtype(),
                 "accumulate {} {} into {} {}", dtype_name(from.dtype()),
                 shape_string(from.shape()), dtype_name(into.dtype()), shape_string(into.shape()));
  if (into.numel() == 0) return;
  LONGSHIP_CHECK(from.is_contiguous() && into.slice(0, 0, 1).is_contiguous(),
                 "accumulate needs contiguous rows");
  const int64_t num_rows = into.dim(0), width = into.numel() / num_rows;
  const int64_t row_stride = into.strides()[0];
  dispatch_floating(into.dtype(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (std::is_same_v<T, bf16>) {
      throw_internal("dtype", __FILE__, __LINE__, "sums are kept in fp32 or fp64, not bf16");
    } else {
      T* const sum = into.data<T>();
      const T* const part = from.data<T>();
      parallel_for(ctx, num_rows, std::max<int64_t>(1, (1 << 14) / width),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t row = begin; row < end; ++row)
                       for (int64_t i = 0; i < width; ++i)
                         sum[row * row_stride + i] += part[row * width + i];
                   });
    }
  });
}

}  // namespace longship
