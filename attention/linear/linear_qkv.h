// Queries, keys and values of a linear-attention layer:
//
//   projection ► short convolution ► SiLU ► heads ► L2 or RMS norm ► RoPE ► feature map (q and k)
#pragma once

#include <vector>

#include "attention/linear/linear_mixer_options.h"
#include "attention/linear/linear_parameter_names.h"
#include "attention/module_parameters.h"
#include "attention/shared_rope_angles.h"
#include "parallel/group.h"

namespace longship {

class LinearQkv {
 public:
  LinearQkv(const LinearMixerOptions& options, const LinearParameterNames& names,
            ModuleParameters& parameters);

  struct Heads {
    Variable q_TGK;  // K as kernel_key_size() says
    Variable k_TGK;  // undefined where keys are tied to the forget gate
    Variable v_THV;
  };

  // Collective over `sp` where there is a convolution.
  Heads forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan, const Group& sp,
                SharedRopeAngles& rope_angles) const;

 private:
  struct Role {
    Variable weight_CE;
    Variable conv_C1W, conv_bias_C;  // undefined without a convolution, or bias
    Variable norm_K;                 // undefined but for QkNorm::kRms
    bool silu = false;
  };

  // [T, C] of each role; all are convolved at once.
  std::vector<Variable> projected(Context& ctx, const std::vector<const Role*>& roles,
                                  const Variable& x_TE, const SequencePlan& plan,
                                  const Group& sp) const;
  Variable query_or_key(Context& ctx, const Role& role, const Variable& heads_TGK,
                        const SequencePlan& plan, SharedRopeAngles& rope_angles) const;

  LinearMixerOptions options_;
  Role q_, k_, v_;
};

}  // namespace longship
