#include "runtime/autograd/variable.h"

#include "runtime/parallel_for.h"

namespace longship {

void Gradient::add(Context& ctx, Tensor contribution) {
  LONGSHIP_CHECK(contribution.shape() == shape_, "gradient of shape {} for a tensor of shape {}",
                 shape_string(contribution.shape()), shape_string(shape_));
  contribution = contribution.to(dtype_).contiguous();
  if (!sum_.defined()) {
    sum_ = std::move(contribution);
    return;
  }
  Tensor result = sum_.is_unique() ? sum_ : ctx.empty(shape_, dtype_);
  dispatch_floating(dtype_, [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    T* out = result.data<T>();
    const T* a = sum_.data<T>();
    const T* b = contribution.data<T>();
    parallel_for(ctx, result.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i)
        out[i] = static_cast<T>(static_cast<A>(a[i]) + static_cast<A>(b[i]));
    });
  });
  sum_ = std::move(result);
}

Tensor& Gradient::accumulate_into(Context& ctx) {
  if (!sum_.defined()) {
    sum_ = ctx.zeros(shape_, dtype_);
  } else if (!sum_.is_unique()) {
    sum_ = sum_.clone();
  }
  return sum_;
}

Variable Variable::leaf(Tensor value) {
  auto gradient = std::make_shared<Gradient>(value.shape(), accumulator_dtype(value.dtype()));
  return Variable(std::move(value), std::move(gradient));
}

}  // namespace longship
