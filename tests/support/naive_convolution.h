// The short convolution as plain loops over a whole batch in fp64, and its adjoint.
#pragma once

#include <vector>

#include "runtime/context.h"

namespace longship::testing {

// Everything fp64. T tokens of the whole batch, C channels, W taps, the last one the current token.
struct NaiveConvolutionInput {
  Tensor x_TC, weight_CW;
  Tensor bias_C;  // undefined: none
  bool silu = false;
  std::vector<int64_t> cu_seqlens;
};

struct NaiveConvolution {
  Tensor y_TC;
  Tensor dx_TC, dweight_CW, dbias_C;  // dbias is there with or without a bias
};

NaiveConvolution naive_convolution(const Context& ctx, const NaiveConvolutionInput& input,
                                   const Tensor& dy_TC);

}  // namespace longship::testing
