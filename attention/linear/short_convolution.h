// The short convolution of linear-attention layers: depthwise and causal over the tokens of a
// document, on a sequence that ranks share.
//
//   y_t[c] = f(bias[c] + sum over j < W, of  weight[c][j] x_{t - (W - 1) + j}[c]),  f(z) = z or
//   z sigmoid(z) (SiLU); tokens before the start of the document count as zero.
//
// The first W - 1 tokens of a segment that continues a document read rows of the ranks before it.
// They travel as a halo, from several ranks where shards are shorter than that, while all other
// rows are computed. The backward sends back the gradients of the first rows' sums, in the
// accumulator dtype. Outputs and the gradients of x have the bits of one rank.
//
// A layer convolves several tensors (queries, keys, values). Their halos travel in one exchange
// each way, from and to where the tensors are.
#pragma once

#include <vector>

#include "parallel/group.h"
#include "parallel/sequence_plan.h"
#include "runtime/autograd/tape.h"

namespace longship {

// Shapes: T local tokens, C channels, W the width of the kernel, in [1, 16] (models use 4).
struct ShortConvolutionInput {
  Variable x_TC;  // fp32, bf16 or fp64
  // Any floating dtype, used in the accumulator dtype; the last tap is the current token. Other
  // systems keep it as `conv1d.weight` [C, 1, W] (PyTorch's Conv1d), the same elements in the same
  // order.
  Variable weight_CW;
  Variable bias_C;  // undefined: none
  bool silu = false;
};

// y [T, C] of each input in x's dtype; inputs have one dtype and one width, and any number of
// channels. The gradients of weight and bias are those of the local tokens, summed in
// the accumulator dtype in an order that threads do not change; other ranks' parts are added with
// those of all other weights. Collective over `sp`, whose plan this is. Shapes that do not fit
// throw Error(kInternal).
//
// Let c be the number of segments that continue rows of this rank on other ranks, and c' that of
// its segments that continue rows of others: at most one on the contiguous layout, two on zigzag.
// With e bytes an element of x and a of the accumulator, and shards of W - 1 tokens or more, a rank
// sends in one exchange each, with a message per input for each of the c (c') runs of rows,
//   "convolution.fwd"  sum over inputs of  c (W - 1) C e
//   "convolution.bwd"  sum over inputs of  c' (W - 1) C a     for those whose x wants a gradient
// and less where a document starts (ends) within W - 1 tokens of a border.
std::vector<Variable> short_convolution(Context& ctx, const Group& sp,
                                        const std::vector<ShortConvolutionInput>& inputs,
                                        const SequencePlan& plan);

}  // namespace longship
