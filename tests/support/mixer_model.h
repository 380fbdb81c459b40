// A mixer with its parameters, and tokens to mix: what tests of mixers run.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "parallel/group.h"
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
  MixerModel(const MixerModel&) = delete;  // the mixer and its parameters point to ctx

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

// Results by name: the output "y", then the gradients of leaves().
using MixerResults = std::vector<std::pair<std::string, Tensor>>;

// Of a forward and backward, for the whole batch and the same on every rank; gradients of
// parameters are summed over ranks. Collective.
MixerResults whole_results(MixerModel& model, const Group& sp);

// check_leaf_gradients() of a forward and backward in fp64 on one rank.
void check_mixer_gradients(MixerModel& model, std::string_view without_effect = {});

using MakeMixerModel = std::function<MixerModel(DType dtype, int num_threads)>;

// The output in `dtype`, and the gradients of all leaves but `cancelling`, are those in fp64 up to
// `bound` on relative_rms(), from parameters and tokens that bf16 holds exactly.
void check_mixer_precision(const MakeMixerModel& make, DType dtype, double bound,
                           std::string_view cancelling = {});

// 1, 2 and 5 threads give the same bits in fp32.
void check_mixer_thread_invariance(const MakeMixerModel& make);

}  // namespace longship::testing
