// The SwiGLU MLP of Llama and Qwen:  y = (silu(x gate^T) * (x up^T)) down^T   (Shazeer 2020).
#pragma once

#include <string>

#include "runtime/model/parameter.h"
#include "runtime/model/transformer_shape.h"

namespace longship {

class Mlp {
 public:
  // Registers `prefix`.gate_proj.weight and .up_proj.weight [F, E] and .down_proj.weight [E, F].
  Mlp(const TransformerShape& shape, const std::string& prefix, ParameterList& parameters);

  // x [T, E] to [T, E], added to `residual_TE` if that is defined.
  Variable forward(Context& ctx, const Variable& x_TE, const Variable& residual_TE = {}) const;

 private:
  Variable gate_FE_;
  Variable up_FE_;
  Variable down_EF_;
};

}  // namespace longship
