// Linear attention as a mixer: every model of the family, as its LinearMixerOptions say.
//
//   q, k, v ► convolution, SiLU ► norm, RoPE, feature map ► gates ► schedule ► norm x gate ► Wo
#pragma once

#include <memory>
#include <string>

#include "attention/linear/linear_mixer_options.h"
#include "attention/shared_rope_angles.h"
#include "parallel/group.h"
#include "runtime/model/mixer.h"

namespace longship {

class LinearSchedule;

// What mixers of one model share.
struct LinearMixerResources {
  std::shared_ptr<const LinearSchedule> schedule;
  Group sp = Group::self();  // the ranks that share a sequence
  std::shared_ptr<SharedRopeAngles> rope_angles;
};

// Parameters have the names of the family's published models or, where those fuse projections, of
// flash-linear-attention (linear_parameter_names.h). They are registered under <prefix>.linear_attn
// (Mamba-2: <prefix>.mamba), where <prefix> is the layer's name, "model.layers.3":
//   {q,k,v}_proj.weight [out, E]; {q,k,v}_conv1d.weight [C, 1, W] and .bias [C]; {q,k}_norm.weight
//   [K]; A_log [H], dt_bias [H] or [H K] and D [H], in fp32 and without weight decay; b_proj.weight
//   [H, E] (beta); o_norm.weight; o_proj.weight [E, H V]; a projection to the gates, and one to the
//   output gate.
class LinearMixer final : public Mixer {
 public:
  // Throws Error(kConfig) listing options.problems().
  LinearMixer(const LinearMixerOptions& options, const std::string& prefix,
              ParameterList& parameters, LinearMixerResources resources);
  ~LinearMixer() override;

  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                   const Variable& residual_TE) override;

 private:
  struct Stages;
  LinearMixerResources resources_;
  std::unique_ptr<const Stages> stages_;
};

}  // namespace longship
