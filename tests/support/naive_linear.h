// Linear attention token by token in fp64, straight from the recurrence, and its adjoint: the
// oracle of the chunked kernels of both tiers and of the schedules. It shares no code with them.
#pragma once

#include "attention/linear/linear_kernel.h"

namespace longship::testing {

// Everything fp64; N segments, shapes as in LinearInput.
struct NaiveLinear {
  Tensor o_THV;
  Tensor states_NHKV;  // S_out of each segment
  LinearGradients gradients;
  Tensor dstates_NHKV;  // gradient of the S_in of each segment
};

// What enters the segments besides `input`. An undefined tensor stands for zeros.
struct NaiveLinearBorders {
  Tensor states_NHKV;   // S_in
  Tensor do_THV;        // gradient of the outputs
  Tensor dstates_NHKV;  // gradient of S_out
};

// `input` in any floating dtype. With beta the delta rule, without it decay only; every kind of
// gate.
NaiveLinear naive_linear(const Context& ctx, const LinearInput& input,
                         std::span<const Segment> segments, const NaiveLinearBorders& borders = {});

}  // namespace longship::testing
