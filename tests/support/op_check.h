// Checks that every op passes: low precision against fp64, the same bits on any number of threads,
// and a GPU against the CPU.
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

// One forward and backward at `dtype`, where `ctx` runs; inputs and results lie on the host. Inputs
// and output gradients (standard normals) are rounded to bf16 first, whatever the dtype, so that
// results of different dtypes can be compared.
OpResult run_op(const OpFunction& function, const std::vector<Tensor>& inputs, DType dtype,
                Context ctx = {});

bool bitwise_equal(const Tensor& a, const Tensor& b);

// fp32 and bf16 outputs and gradients are near those of fp64: relative RMS error at most 1e-6 and
// 4e-3 (half a unit in the last place of bf16 is 2e-3).
void check_precision(const OpFunction& function, const std::vector<Tensor>& inputs);

// 1, 2, 3 and 7 threads give the same bits in fp32 and bf16.
void check_thread_invariance(const OpFunction& function, const std::vector<Tensor>& inputs);

// On this GPU: the bounds of check_precision(), against fp64 on the CPU, and the same bits again.
void check_on_gpu(const Context& gpu, const OpFunction& function,
                  const std::vector<Tensor>& inputs);

}  // namespace longship::testing
