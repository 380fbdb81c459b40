// Central differences in fp64: the independent oracle of every backward.
#pragma once

#include <functional>
#include <vector>

#include "runtime/autograd/tape.h"

namespace longship::testing {

// A Context with a tape of its own.
struct TapeContext {
  Tape tape;
  Context ctx;
  TapeContext() { ctx.tape = &tape; }
};

// fp64 tensor of standard normals times `scale`, a pure function of (seed, shape).
Tensor random_tensor(Context& ctx, Shape shape, uint64_t seed, double scale = 1.0);

// ||a - b|| / ||b|| in fp64; the norm of a when b is all zero. NaN never passes a comparison.
double relative_rms(const Tensor& a, const Tensor& b);

// Builds a scalar from `function(inputs)` by a fixed random projection of every output, and
// compares d scalar / d inputs with central differences in fp64. Checks up to `max_probes` elements
// of each input, spread over it. Fails the current test with tensor, element and both values when
// |analytic - numeric| > tolerance * max(1, |numeric|).
void check_gradients(
    const std::function<std::vector<Variable>(Context&, const std::vector<Variable>&)>& function,
    const std::vector<Tensor>& inputs, double tolerance = 1e-6, int64_t max_probes = 200);

}  // namespace longship::testing
