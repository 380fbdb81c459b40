#include "tests/support/naive_convolution.h"

#include <cmath>

namespace longship::testing {

NaiveConvolution naive_convolution(const Context& ctx, const NaiveConvolutionInput& input,
                                   const Tensor& dy_TC) {
  const int64_t T = input.x_TC.dim(0), C = input.x_TC.dim(1), W = input.weight_CW.dim(1);
  NaiveConvolution out{ctx.zeros({T, C}, DType::kF64), ctx.zeros({T, C}, DType::kF64),
                       ctx.zeros({C, W}, DType::kF64), ctx.zeros({C}, DType::kF64)};
  const double* x = input.x_TC.data<double>();
  const double* w = input.weight_CW.data<double>();
  for (size_t d = 1; d < input.cu_seqlens.size(); ++d) {
    const int64_t document_begin = input.cu_seqlens[d - 1];
    for (int64_t t = document_begin; t < input.cu_seqlens[d]; ++t) {
      for (int64_t c = 0; c < C; ++c) {
        double z = input.bias_C.defined() ? input.bias_C.data<double>()[c] : 0;
        for (int64_t j = 0; j < W; ++j) {
          const int64_t source = t - (W - 1) + j;
          if (source >= document_begin) z += w[c * W + j] * x[source * C + c];
        }
        const double s = 1 / (1 + std::exp(-z));
        out.y_TC.data<double>()[t * C + c] = input.silu ? z * s : z;
        const double dz =
            dy_TC.data<double>()[t * C + c] * (input.silu ? s + z * s * (1 - s) : 1.0);
        out.dbias_C.data<double>()[c] += dz;
        for (int64_t j = 0; j < W; ++j) {
          const int64_t source = t - (W - 1) + j;
          if (source < document_begin) continue;
          out.dweight_CW.data<double>()[c * W + j] += dz * x[source * C + c];
          out.dx_TC.data<double>()[source * C + c] += dz * w[c * W + j];
        }
      }
    }
  }
  return out;
}

}  // namespace longship::testing
