// What decides, token by token, how long a linear-attention layer remembers and how much it writes.
#pragma once

#include "attention/linear/linear_mixer_options.h"
#include "attention/linear/low_rank_projection.h"

namespace longship {

class LinearGates {
 public:
  LinearGates(const LinearMixerOptions& options, const LinearParameterNames& names,
              ModuleParameters& parameters);

  // Undefined where the layer has no such thing. All but the keys in the accumulator dtype.
  struct Gates {
    Variable log_decay;  // [H], [T, H] or [T, H, K]
    Variable k_THK;      // keys tied to the forget gate
    Variable dt_TH;      // step sizes
    Variable beta_TH;
  };

  Gates forward(Context& ctx, const Variable& x_TE) const;

 private:
  LinearMixerOptions options_;
  LowRankProjection a_;
  Variable A_log_H_, dt_bias_F_;
  Variable beta_HE_;
};

}  // namespace longship
