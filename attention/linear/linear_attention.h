// Linear attention over a sequence that ranks share, as one differentiable op: a kernel does the
// local part, a state schedule carries what it leaves to the tokens behind it.
//
//   forward    summary ► carry states ► chunk-local work meanwhile ► outputs
//   backward   the same in reverse, with the gradients of the states
#pragma once

#include <memory>

#include "attention/linear/linear_kernel.h"
#include "runtime/autograd/tape.h"

namespace longship {

// As LinearInput, with gradients. `gate` and `beta_TH` may be left out, or be constants.
struct LinearAttentionInput {
  Variable q_TGK;
  Variable k_TGK;
  Variable v_THV;
  Variable gate;     // undefined, [H], [T, H] or [T, H, K], in the accumulator dtype
  Variable beta_TH;  // undefined: no delta rule
  double scale = 1.0;
};

// o [T, H, V] in v's dtype for the local tokens of `plan`; states start at zero in every document.
// Collective over the schedule's group. `kernel` and `schedule` must outlive the tape. On one rank
// the schedule is not used and may be null.
Variable linear_attention(Context& ctx, const LinearKernel& kernel, const StateSchedule* schedule,
                          const LinearAttentionInput& input, const SequencePlan& plan);

}  // namespace longship
