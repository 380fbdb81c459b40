// The language-model head and its loss in one op, computed in chunks of tokens so that no tensor of
// tokens x vocabulary ever exists:
//
//   loss = sum_t weight[t] * (logsumexp(h[t] head^T) - (h[t] head^T)[target[t]])
//
// h [T, E], head [V, E], targets [T] i32, weights [T] fp32. Tokens of weight 0 are skipped
// altogether; their targets are not read. Logits and loss in fp32 (fp64), loss summed in fp64.
// A target outside [0, V) throws Error(kCorrupt). When recording, the forward also computes dh and
// dhead chunk by chunk, and the backward scales them by the incoming gradient.
//
// On a GPU, where the host does not wait for results, tokens of weight 0 are computed like all
// others, and then their loss and their gradients are 0; a target outside [0, V) makes the loss
// NaN.
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

// The sum, shape [1], fp32 (fp64 for fp64 h).
Variable linear_cross_entropy(Context& ctx, const Variable& h_TE, const Variable& head_VE,
                              const Tensor& targets_T, const Tensor& weights_T,
                              int64_t chunk_tokens);

// The unweighted loss of every token, [T] fp32, without recording.
Tensor token_cross_entropy(Context& ctx, const Tensor& h_TE, const Tensor& head_VE,
                           const Tensor& targets_T, int64_t chunk_tokens);

}  // namespace longship
