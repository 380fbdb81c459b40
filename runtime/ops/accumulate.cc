#include "runtime/ops/accumulate.h"

#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
#include "runtime/ops/accumulate_cuda.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

struct Rows {
  int64_t num_rows, width, stride;  // of `into`
};

template <class P>
void accumulate_cpu(const Context& ctx, const Tensor& into, const Tensor& from, Rows rows) {
  auto* const sum = into.data<Accumulator<P>>();
  const P* const part = from.data<P>();
  const auto [num_rows, width, stride] = rows;
  parallel_for(ctx, num_rows, std::max<int64_t>(1, (1 << 14) / width),
               [&](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row)
                   for (int64_t i = 0; i < width; ++i)
                     sum[row * stride + i] += static_cast<Accumulator<P>>(part[row * width + i]);
               });
}

}  // namespace

void accumulate(const Context& ctx, const Tensor& into, const Tensor& from) {
  LONGSHIP_CHECK(into.shape() == from.shape() && is_floating(from.dtype()) &&
                     into.dtype() == accumulator_dtype(from.dtype()),
                 "accumulate {} {} into {} {}", dtype_name(from.dtype()),
                 shape_string(from.shape()), dtype_name(into.dtype()), shape_string(into.shape()));
  if (into.numel() == 0) return;
  LONGSHIP_CHECK(from.is_contiguous() && into.slice(0, 0, 1).is_contiguous(),
                 "accumulate needs contiguous rows");
  require_one_device("accumulate", {&into, &from});
  const Rows rows = {into.dim(0), into.numel() / into.dim(0), into.strides()[0]};
  dispatch_device(
      into,
      [&] {
        dispatch_floating(from.dtype(),
                          [&](auto tag) { accumulate_cpu<decltype(tag)>(ctx, into, from, rows); });
      },
      [&] {
        accumulate_cuda({.num_rows = rows.num_rows,
                         .row_length = rows.width,
                         .sum_stride = rows.stride,
                         .part_dtype = from.dtype(),
                         .sum_RX = into.device_data<float>(),
                         .part_RX = from.address()},
                        compute_stream(ctx));
      });
}

}  // namespace longship
