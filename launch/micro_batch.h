// The work of a model on one micro-batch.
#pragma once

#include "data/batch.h"
#include "runtime/model/transformer.h"

namespace longship {

// Forward and backward: adds the gradients of `seed` times the sum of the losses to those of the
// parameters, and returns that sum, [1] in fp32 (fp64). The batch lies where the model does, and
// the host does not wait for a GPU.
Tensor forward_backward(Context& ctx, Transformer& transformer, const Batch& batch, double seed);
// The same with a seed that lies there too, shaped as the result: nothing comes from the host.
Tensor forward_backward(Context& ctx, Transformer& transformer, const Batch& batch,
                        const Tensor& seed_1);

}  // namespace longship
