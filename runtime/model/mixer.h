// Mixer: the part of a decoder block that moves information between tokens.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "runtime/autograd/variable.h"
#include "runtime/model/parameter.h"

namespace longship {

class SequencePlan;  // parallel/sequence_plan.h; opaque here

class Mixer {
 public:
  virtual ~Mixer() = default;

  // x_TE: the local tokens of `plan`, T = plan.num_local_tokens(). Returns [T, E], the mixed
  // tokens after the output projection, added to `residual_TE` if that is defined. This is the only
  // call in a block in which ranks talk.
  virtual Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                           const Variable& residual_TE = {}) = 0;
};

// Builds the mixer of a layer and registers its parameters under `prefix`, the layer's name
// ("model.layers.3"), and the name of its module there (".self_attn", ".linear_attn", ...).
using MixerFactory = std::function<std::unique_ptr<Mixer>(int64_t layer, const std::string& prefix,
                                                          ParameterList& parameters)>;

}  // namespace longship
