#include "runtime/ops/rms_norm_cpu.h"

#include <cmath>

#include "runtime/interleaved_sum.h"
#include "runtime/ops/column_sums.h"
#include "runtime/ops/for_each_row.h"

namespace longship {
namespace {

int64_t num_rows(const Tensor& x) {
  return x.numel() / x.dim(-1);
}

// Of row r: dx = rstd * (w dy - xhat * mean(w dy xhat)) + other,  xhat = x rstd,  w = weight +
// shift
template <class T, class A>
void input_gradient(const RmsNormBackward& op, int64_t r) {
  const int64_t D = op.x_RD.dim(-1);
  const T *const x = op.x_RD.data<T>() + r * D, *const dy = op.dy_RD.data<T>() + r * D;
  const T* const weight = op.weight_D.data<T>();
  const T* const other = op.other_RD.defined() ? op.other_RD.data<T>() + r * D : nullptr;
  T* const dx = op.dx_RD.data<T>() + r * D;
  const A rstd = op.rstd_R.data<A>()[r], shift = op.zero_centered ? 1 : 0;
  const A dot = interleaved_sum<A>(D, [&](int64_t d) {
    return static_cast<A>(dy[d]) * (static_cast<A>(weight[d]) + shift) * static_cast<A>(x[d]);
  });
  const A c = dot * rstd * rstd / static_cast<A>(D);
  auto gradient = [&](int64_t d) {
    return rstd *
           (static_cast<A>(dy[d]) * (static_cast<A>(weight[d]) + shift) - c * static_cast<A>(x[d]));
  };
  if (other == nullptr) {
#pragma GCC ivdep
    for (int64_t d = 0; d < D; ++d) dx[d] = static_cast<T>(gradient(d));
  } else {
#pragma GCC ivdep
    for (int64_t d = 0; d < D; ++d) dx[d] = static_cast<T>(static_cast<A>(other[d]) + gradient(d));
  }
}

// dweight += dy xhat
template <class T, class A>
void add_weight_gradient(int64_t D, const T* x, const T* dy, A rstd, A* dweight) {
#pragma GCC ivdep
  for (int64_t d = 0; d < D; ++d)
    dweight[d] += static_cast<A>(dy[d]) * (static_cast<A>(x[d]) * rstd);
}

template <class T>
Tensor backward(const Context& ctx, const RmsNormBackward& op) {
  using A = Accumulator<T>;
  const int64_t D = op.x_RD.dim(-1);
  return column_sums<A>(ctx, num_rows(op.x_RD), D, [&](int64_t r, A* dweight) {
    if (op.dx_RD.defined()) input_gradient<T, A>(op, r);
    if (op.wants_dweight)
      add_weight_gradient(D, op.x_RD.data<T>() + r * D, op.dy_RD.data<T>() + r * D,
                          op.rstd_R.data<A>()[r], dweight);
  });
}

}  // namespace

void rms_norm_forward_cpu(const Context& ctx, const RmsNormForward& op) {
  const int64_t D = op.x_RD.dim(-1);
  dispatch_floating(op.x_RD.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    const T* w = op.weight_D.data<T>();
    const A shift = op.zero_centered ? 1 : 0;
    for_each_row(ctx, op.x_RD, D, [&](int64_t first) {
      const T* in = op.x_RD.data<T>() + first;
      T* out = op.y_RD.data<T>() + first;
      const A square = interleaved_sum<A>(
          D, [&](int64_t d) { return static_cast<A>(in[d]) * static_cast<A>(in[d]); });
      const A rstd = 1 / std::sqrt(square / static_cast<A>(D) + static_cast<A>(op.eps));
      op.rstd_R.data<A>()[first / D] = rstd;
#pragma GCC ivdep
      for (int64_t d = 0; d < D; ++d)
        out[d] = static_cast<T>(static_cast<A>(in[d]) * rstd * (static_cast<A>(w[d]) + shift));
    });
  });
}

Tensor rms_norm_backward_cpu(const Context& ctx, const RmsNormBackward& op) {
  return dispatch_floating(op.x_RD.dtype(),
                           [&](auto tag) { return backward<decltype(tag)>(ctx, op); });
}

}  // namespace longship
