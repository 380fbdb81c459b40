// A projection of the tokens to gates: y = x W^T (+ b), or y = x W_down^T W_up^T (+ b) by way of a
// low rank, as GLA and Kimi Linear save parameters.
#pragma once

#include "attention/linear/linear_parameter_names.h"
#include "attention/module_parameters.h"

namespace longship {

struct LowRankSizes {
  int64_t inputs = 0;
  int64_t outputs = 0;
  int64_t rank = 0;  // 0 = one full matrix
  bool has_bias = false;
};

class LowRankProjection {
 public:
  LowRankProjection() = default;  // undefined
  // Registers names.full.weight, or names.down.weight and names.up.weight; the bias, which starts
  // at 0, belongs to the last of them.
  LowRankProjection(ModuleParameters& parameters, const ProjectionNames& names,
                    const LowRankSizes& sizes);

  bool defined() const { return last_OI_.defined(); }
  // x [T, inputs] to [T, outputs].
  Variable forward(Context& ctx, const Variable& x_TE) const;

 private:
  Variable down_RE_;  // undefined without a low rank
  Variable last_OI_;
  Variable bias_O_;  // undefined without one
};

}  // namespace longship
