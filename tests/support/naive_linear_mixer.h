// A linear-attention layer as its formulas say, number by number in fp64: the oracle of LinearMixer
// and of the ops that it is made of.
#pragma once

#include "attention/linear/linear_mixer_options.h"
#include "parallel/sequence_plan.h"
#include "runtime/model/parameter.h"

namespace longship::testing {

// The mixed tokens [T, E] of x [T, E], all tokens of a local plan. `parameters` are in fp64, those
// of a LinearMixer made with `prefix`.
Tensor naive_linear_mixer(const Context& ctx, const LinearMixerOptions& options,
                          const ParameterList& parameters, const std::string& prefix,
                          const Tensor& x_TE, const SequencePlan& plan);

}  // namespace longship::testing
