// Checks that every op passes: low precision against fp64, and the same bits on any number of
// threads.
#pragma once

#include <functional>
#include <vector>

#include "runtime/autograd/tape.h"

namespace longship::testing {

using OpFunction =
    std::function<std::vector<Variable>(Context&, const std::vector<Variable>& inputs)>;

// The outputs of an op followed by the gradient of each input.
struct OpResult {
  std::vector<Tensor> outputs;
  std::vector<Tensor> gradients;
};

// One forward and backward at `dtype`. Inputs and output gradients (standard normals) are rounded
// to bf16 first, whatever the dtype, so that results of different dtypes can be compared.
OpResult run_op(const OpFunction& function, const std::vector<Tensor>& inputs, DType dtype,
                int num_threads = 1);

bool bitwise_equal(const Tensor& a, const Tensor& b);

// fp32 and bf16 outputs and gradients are near those of fp64: relative RMS error at most 1e-6 and
// 4e-3 (half a unit in the last place of bf16 is 2e-3).
void check_precision(const OpFunction& function, const std::vector<Tensor>& inputs);

// 1, 2, 3 and 7 threads give the same bits in fp32 and bf16.
void check_thread_invariance(const OpFunction& function, const std::vector<Tensor>& inputs);

}  // namespace longship::testing
