// A configuration turned into a model.
#pragma once

#include <memory>

#include "launch/config.pb.h"
#include "parallel/parameter_exchange.h"
#include "runtime/model/transformer.h"

namespace longship {

struct Model {
  ParameterList parameters;
  std::unique_ptr<Transformer> transformer;
};

// What ops compute in: train.precision.
DType compute_dtype(const config::Run& run);

// `run` is valid and resolved, with model.vocab_size set. Weights are initialised from train.seed,
// the same on every rank; with parallel.zero there are none yet. `ctx` must outlive the model.
Model make_model(Context& ctx, const config::Run& run, const Group& sp);

// What the ranks of `world` exchange about the model's parameters, as parallel.zero says; the model
// tells it about every forward and backward. Where ranks share out the parameters, this gives the
// model its weights. All must outlive the result, which comes before the optimizer. Collective.
std::unique_ptr<ParameterExchange> make_parameter_exchange(Context& ctx, const config::Run& run,
                                                           Model& model, const Group& world);

}  // namespace longship
