// A learned logit in the denominator of softmax attention (gpt-oss, OpenAI 2025, arXiv 2508.10925):
// each query head attends to one more key, whose score is sink[h] and whose value is zero.
//
//   lse' = log(exp(lse) + exp(sink)),   o' = o exp(lse - lse')
//   dsink[h] = -sum over t of  p[t, h] delta[t, h],   p = exp(sink - lse')
//
// It takes part once, after the partial results of a row are merged. With lse' and delta of o', the
// backward of every block is that of attention with the sink.
#pragma once

#include "runtime/context.h"

namespace longship {

// Turns o_THV (fp32 or bf16; fp64) and lse_TH (its accumulator dtype: fp32, fp64), both contiguous,
// into o' and lse', in place. sink_H [H] in any floating dtype. A row that saw no key (lse = -inf,
// o = 0) gets lse' = sink.
void add_sink_logit(const Context& ctx, const Tensor& sink_H, const Tensor& o_THV,
                    const Tensor& lse_TH);

// dsink of these rows, [H] in the accumulator dtype, from lse' and delta = rowsum(do * o'), both
// [T, H]. Summed in fp64 in a fixed order.
Tensor sink_logit_gradient(const Context& ctx, const Tensor& sink_H, const Tensor& lse_TH,
                           const Tensor& delta_TH);

}  // namespace longship
