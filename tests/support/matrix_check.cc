#include "tests/support/matrix_check.h"

#include <cmath>

#include "tests/support/gradient_check.h"

namespace longship::testing {
namespace {

// Packed, on the host.
Tensor fp64_of(const Tensor& tensor) {
  return tensor.to(std::make_shared<Memory>()).to(DType::kF64).contiguous();
}

}  // namespace

double value_at(const Tensor& tensor, int64_t row, int64_t column) {
  const int64_t offset = row * tensor.strides()[0] + column * tensor.strides()[1];
  return dispatch_floating(tensor.dtype(), [&](auto tag) {
    return static_cast<double>(tensor.data<decltype(tag)>()[offset]);
  });
}

Tensor operand(const Context& ctx, int64_t rows, int64_t columns, DType dtype, int layout,
               uint64_t seed) {
  Context host;
  auto normals = [&](int64_t M, int64_t N) {
    return random_tensor(host, {M, N}, seed).to(dtype).to(ctx.memory);
  };
  if (layout == 1) return normals(columns, rows).transpose(0, 1);
  if (layout == 2) return normals(rows + 2, columns + 5).slice(0, 1, rows).slice(1, 3, columns);
  return normals(rows, columns);
}

Tensor reference_product(const Tensor& a_MK, const Tensor& b_KN, const Tensor& start) {
  const int64_t M = a_MK.dim(0), N = b_KN.dim(1), K = a_MK.dim(1);
  const Tensor a = fp64_of(a_MK), b = fp64_of(b_KN);
  const Tensor c = start.defined() ? fp64_of(start).clone()
                                   : Tensor::zeros(std::make_shared<Memory>(), {M, N}, DType::kF64);
  double* sum = c.data<double>();
  for (int64_t m = 0; m < M; ++m)
    for (int64_t k = 0; k < K; ++k) {
      const double factor = a.data<double>()[m * K + k];
      for (int64_t n = 0; n < N; ++n) sum[m * N + n] += factor * b.data<double>()[k * N + n];
    }
  return c;
}

double product_error(const Tensor& found, const Tensor& expected, int64_t K) {
  const Tensor a = fp64_of(found), b = fp64_of(expected);
  double squares = 0;
  for (int64_t i = 0; i < b.numel(); ++i) {
    const double difference = a.data<double>()[i] - b.data<double>()[i];
    squares += difference * difference;
  }
  return std::sqrt(squares / static_cast<double>(b.numel() * (K + 1)));
}

}  // namespace longship::testing
