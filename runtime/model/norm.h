// An RMSNorm of a model: its weight, and how it is applied.
#pragma once

#include <string>

#include "runtime/model/parameter.h"

namespace longship {

struct NormStyle {
  double eps = 1e-5;
  // The weight is kept as its distance from 1 and starts at 0, so that weight decay draws it
  // towards 1 (Qwen3-Next). Otherwise it starts at 1 and is not decayed.
  bool zero_centered = false;
};

class Norm {
 public:
  Norm() = default;  // undefined
  // Registers <name>.weight [size].
  Norm(ParameterList& parameters, const std::string& name, int64_t size, NormStyle style);

  bool defined() const { return weight_D_.defined(); }
  // Over the last dimension of x, of the size registered.
  Variable forward(Context& ctx, const Variable& x) const;

 private:
  NormStyle style_;
  Variable weight_D_;
};

}  // namespace longship
