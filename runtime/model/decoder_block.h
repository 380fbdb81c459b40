// A decoder block:  h = x + mixer(norm(x));  y = h + mlp(norm(h)). With the norm after (OLMo 2,
// arXiv 2501.00656):  h = x + norm(mixer(x));  y = h + norm(mlp(h)).
#pragma once

#include <memory>

#include "runtime/model/mixer.h"
#include "runtime/model/mlp.h"
#include "runtime/model/norm.h"

namespace longship {

class DecoderBlock {
 public:
  // Registers the parameters of `layer`, in order: input_layernorm.weight [E], the mixer's,
  // post_attention_layernorm.weight [E], those of mlp; all under model.layers.<layer>. Norms after
  // are called post_attention_layernorm and post_feedforward_layernorm, as in OLMo 2.
  DecoderBlock(const TransformerShape& shape, int64_t layer, const MixerFactory& make_mixer,
               ParameterList& parameters);

  // x [T, E], the local tokens of `plan`, to [T, E].
  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan) const;

 private:
  bool norm_after_;
  Norm mixer_norm_;
  std::unique_ptr<Mixer> mixer_;
  Norm mlp_norm_;
  Mlp mlp_;
};

}  // namespace longship
