#include "runtime/model/norm.h"

#include "runtime/ops/rms_norm.h"

namespace longship {

Norm::Norm(ParameterList& parameters, const std::string& name, int64_t size, NormStyle style)
    : style_(style),
      weight_D_(parameters.add(
          name + ".weight", {size},
          {.kind = Initializer::Kind::kConstant, .a = style.zero_centered ? 0.0 : 1.0},
          /*decay=*/style.zero_centered)) {}

Variable Norm::forward(Context& ctx, const Variable& x) const {
  return rms_norm(ctx, x, weight_D_, style_.eps, style_.zero_centered);
}

}  // namespace longship
