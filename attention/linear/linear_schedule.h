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
//   forward    carry states ► chunk-local work meanwhile ► outputs
//   backward   the same in reverse, with the gradients of the states
// With make_local_states() it is the schedule of one rank.
std::unique_ptr<LinearSchedule> make_linear_carry(std::unique_ptr<const StateSchedule> states);

// Ulysses (arXiv 2309.14509) for any number of heads: an all-to-all brings whole sequences of a few
// heads to each rank, the kernel sees every document whole, and the way back is the reverse. State
// heads are dealt in runs as equal as possible; a key head goes to every rank whose state heads
// read it, and its gradients are added in ascending rank order before they are rounded. With as
// many key as state heads all results have the bits of one rank; else dq and dk are near.
//
// A rank's heads travel in up to kMaxUlyssesGroups groups of whole key heads, in_groups() of
// parallel/head_exchange.h, in the forward and the backward: the next group arrives, and the
// results of the one before go home, while the kernel runs a group. What is exposed is the way of
// the first group in and of the last one out. Bytes and bits do not depend on the number of groups;
// it is 1, and nothing hidden, where a rank has one key head or none, or ranks share one.
//
// Sent by rank r, with s_p tokens, h_p state heads and g_p key heads on rank p, e bytes an element
// of q, k and v, a of gates, and n gates and betas per token and head (constant gates stay home):
//   "ulysses.fwd"  sum over p != r of  s_r (2 g_p K e + h_p (V e + n a))    q, k, v, gate, beta
//                                    + s_p h_r V e                          o
//   "ulysses.bwd"  sum over p != r of  s_r h_p V e                          do
//                                    + s_p (2 g_r K x + h_r (V e + n a))    dq, dk, dv, dgate,
//                                    dbeta
// where x = e, or a when some key head is used by several ranks.
std::unique_ptr<LinearSchedule> make_linear_ulysses(Group sp);

}  // namespace longship
