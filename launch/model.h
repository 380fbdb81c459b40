// A configuration turned into a model.
#pragma once

#include <memory>

#include "launch/config.pb.h"
#include "parallel/group.h"
#include "runtime/model/transformer.h"

namespace longship {

struct Model {
  ParameterList parameters;
  std::unique_ptr<Transformer> transformer;
};

// What ops compute in: train.precision.
DType compute_dtype(const config::Run& run);

// `run` is valid and resolved, with model.vocab_size set. Weights are initialised from train.seed,
// the same on every rank. `ctx` must outlive the model.
Model make_model(Context& ctx, const config::Run& run, const Group& sp);

}  // namespace longship
