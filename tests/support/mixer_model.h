// A mixer with its parameters, and tokens to mix: what tests of mixers run.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "parallel/sequence_plan.h"
#include "runtime/autograd/tape.h"
#include "runtime/model/mixer.h"

namespace longship::testing {

class MixerModel {
 public:
  using Make = std::function<std::unique_ptr<Mixer>(ParameterList& parameters)>;

  // Norms, which start at 1 where mistakes would not show, and biases are drawn at random, and so
  // are the tokens and the gradient of the output; all are the same on every rank.
  MixerModel(const Make& make, int64_t hidden_size, DType dtype, SequencePlan plan,
             int num_threads = 1);

  // The output; gradients are then in leaves().
  Tensor forward_and_backward();
  // dy . y over the local tokens, in fp64.
  double loss();
  // The tokens, "x", first, then the parameters.
  std::vector<std::pair<std::string, Variable>> leaves();
  // Of a parameter by its whole name; throws when there is none.
  Tensor parameter(const std::string& name) const;

  Context ctx;
  ParameterList parameters;
  SequencePlan plan;
  std::unique_ptr<Mixer> mixer;
  Variable x_TE;  // local tokens
  Tensor dy_TE;
};

// Compares the gradient of every leaf with central differences, in fp64 on one rank, at up to
// `max_probes` elements of each, and requires that every leaf has an effect.
void check_mixer_gradients(MixerModel& model, int64_t max_probes = 15);

}  // namespace longship::testing
