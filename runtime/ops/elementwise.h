// The way of ops that compute each element from those at the same place onto a GPU.
#pragma once

#include <initializer_list>

#include "runtime/gpu.h"
#include "runtime/ops/elementwise_cuda.h"

namespace longship {

// Of packed tensors on one GPU, of one shape and dtype: at most 3 inputs and 2 outputs.
ElementwiseCuda elementwise(std::initializer_list<const Tensor*> inputs,
                            std::initializer_list<const Tensor*> outputs);

}  // namespace longship
