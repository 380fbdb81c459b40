// A pre-norm decoder block:  h = x + mixer(norm(x));  y = h + mlp(norm(h)).
#pragma once

#include <memory>

#include "runtime/model/mixer.h"
#include "runtime/model/mlp.h"

namespace longship {

class DecoderBlock {
 public:
  // Registers the parameters of `layer`, in order: input_layernorm.weight [E], the mixer's,
  // post_attention_layernorm.weight [E], those of mlp; all under model.layers.<layer>.
  DecoderBlock(const TransformerShape& shape, int64_t layer, const MixerFactory& make_mixer,
               ParameterList& parameters);

  // x [T, E], the local tokens of `plan`, to [T, E].
  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan) const;

 private:
  double norm_eps_;
  Variable mixer_norm_E_;
  std::unique_ptr<Mixer> mixer_;
  Variable mlp_norm_E_;
  Mlp mlp_;
};

}  // namespace longship
