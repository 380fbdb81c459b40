#include "attention/linear/low_rank_projection.h"

#include "runtime/ops/linear.h"

namespace longship {

LowRankProjection::LowRankProjection(ModuleParameters& parameters, const ProjectionNames& names,
                                     const LowRankSizes& sizes) {
  const bool is_full = sizes.rank == 0;
  if (!is_full) down_RE_ = parameters.matrix(names.down, sizes.rank, sizes.inputs);
  const std::string& last = is_full ? names.full : names.up;
  last_OI_ = parameters.matrix(last, sizes.outputs, is_full ? sizes.inputs : sizes.rank);
  if (sizes.has_bias) bias_O_ = parameters.bias(last, sizes.outputs);
}

Variable LowRankProjection::forward(Context& ctx, const Variable& x_TE) const {
  const Variable x_TI = down_RE_.defined() ? linear(ctx, x_TE, down_RE_) : x_TE;
  return linear(ctx, x_TI, last_OI_, bias_O_);
}

}  // namespace longship
