#include "runtime/model/mlp.h"

#include "runtime/ops/linear.h"
#include "runtime/ops/swiglu.h"

namespace longship {

Mlp::Mlp(const TransformerShape& shape, const std::string& prefix, ParameterList& parameters) {
  const int64_t E = shape.hidden_size;
  const int64_t F = shape.intermediate_size;
  const Initializer in{.a = shape.init_std};
  const Initializer out{.a = residual_init_std(shape.init_std, shape.num_layers)};
  gate_FE_ = parameters.add(prefix + ".gate_proj.weight", {F, E}, in, /*decay=*/true);
  up_FE_ = parameters.add(prefix + ".up_proj.weight", {F, E}, in, /*decay=*/true);
  down_EF_ = parameters.add(prefix + ".down_proj.weight", {E, F}, out, /*decay=*/true);
}

Variable Mlp::forward(Context& ctx, const Variable& x_TE, const Variable& residual_TE) const {
  const Variable gate_TF = linear(ctx, x_TE, gate_FE_);
  const Variable up_TF = linear(ctx, x_TE, up_FE_);
  return linear_add(ctx, residual_TE, swiglu(ctx, gate_TF, up_TF), down_EF_);
}

}  // namespace longship
