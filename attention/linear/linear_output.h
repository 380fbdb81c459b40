// The end of a linear-attention layer:  y = (norm(o) x gate) Wo^T.
#pragma once

#include "attention/linear/linear_mixer_options.h"
#include "attention/linear/low_rank_projection.h"

namespace longship {

class LinearOutput {
 public:
  LinearOutput(const LinearMixerOptions& options, const LinearParameterNames& names,
               ModuleParameters& parameters);

  // o [T, H, V] of the tokens x [T, E], to [T, E], added to `residual_TE` if that is defined.
  Variable forward(Context& ctx, const Variable& o_THV, const Variable& x_TE,
                   const Variable& residual_TE) const;

 private:
  Variable normed_and_gated(Context& ctx, const Variable& o_THV, const Variable& x_TE) const;

  LinearMixerOptions options_;
  LowRankProjection gate_;  // undefined without an output gate
  Variable norm_F_;         // undefined without a norm
  Variable weight_EO_;
};

}  // namespace longship
