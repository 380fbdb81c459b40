// LinearSchedule: how the ranks of a sequence-parallel group share a linear-attention layer.
#pragma once

#include <memory>

#include "attention/linear/linear_kernel.h"
#include "parallel/group.h"
#include "parallel/state_schedule.h"
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

class LinearSchedule {
 public:
  virtual ~LinearSchedule() = default;

  // Linear attention within documents, as one differentiable op: o [T, H, V] in v's dtype for the
  // local tokens of `plan`; states start at zero in every document. Collective over the schedule's
  // group. The schedule and `kernel` must outlive the tape; they hold nothing between calls, so one
  // schedule serves all layers. Shapes that do not fit throw Error(kInternal).
  virtual Variable attend(Context& ctx, const LinearKernel& kernel,
                          const LinearAttentionInput& input, const SequencePlan& plan) const = 0;
};

// Tokens stay where they are; what they leave for the tokens behind them is carried by `states`
// (LASP, LASP-2, ZeCO):
//   forward    summary ► carry states ► chunk-local work meanwhile ► outputs
//   backward   the same in reverse, with the gradients of the states
// With make_local_states() it is the schedule of one rank.
std::unique_ptr<LinearSchedule> make_linear_carry(std::unique_ptr<const StateSchedule> states);

}  // namespace longship
