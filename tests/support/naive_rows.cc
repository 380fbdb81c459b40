#include "tests/support/naive_rows.h"

#include <cmath>

namespace longship::testing {

Tensor naive_projection(const Context& ctx, const Tensor& x_TI, const Tensor& weight_OI,
                        const Tensor& bias_O) {
  const int64_t T = x_TI.dim(0), I = x_TI.dim(1), O = weight_OI.dim(0);
  const Tensor y_TO = ctx.empty({T, O}, DType::kF64);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t o = 0; o < O; ++o) {
      double sum = bias_O.defined() ? bias_O.data<double>()[o] : 0;
      for (int64_t i = 0; i < I; ++i)
        sum += x_TI.data<double>()[t * I + i] * weight_OI.data<double>()[o * I + i];
      y_TO.data<double>()[t * O + o] = sum;
    }
  return y_TO;
}

void naive_rms_norm(double* x, int64_t size, const double* weight, double eps) {
  double square = 0;
  for (int64_t i = 0; i < size; ++i) square += x[i] * x[i];
  const double rms = std::sqrt(square / static_cast<double>(size) + eps);
  for (int64_t i = 0; i < size; ++i) x[i] *= weight[i] / rms;
}

void naive_rope(double* x, int64_t R, int64_t position, double theta) {
  for (int64_t i = 0; i < R / 2; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(R));
    const double a = x[i], b = x[i + R / 2];
    x[i] = a * std::cos(angle) - b * std::sin(angle);
    x[i + R / 2] = b * std::cos(angle) + a * std::sin(angle);
  }
}

}  // namespace longship::testing
