// A block of softmax attention with random inputs, and what a kernel makes of it.
// Shapes: T queries, S keys, H query heads, K key/value heads, D head size, V value size.
#pragma once

#include <cmath>

#include "parallel/document_mask.h"
#include "parallel/softmax_block.h"
#include "runtime/ops/softmax_delta.h"
#include "tests/support/gradient_check.h"

namespace longship::testing {

struct SoftmaxHeads {
  int64_t H = 4, K = 2, D = 8, V = 8;
};

// A block of attention with the gradient of its output.
struct SoftmaxProblem {
  SoftmaxBlockInput input;
  BlockMask mask;
  Tensor do_THV;
};

struct SoftmaxResult {
  SoftmaxBlockOutput output;
  SoftmaxBlockBackward gradients;
};

// Inputs are bf16 numbers in every dtype.
inline SoftmaxProblem make_problem(Context& ctx, int64_t T, int64_t S, const SoftmaxHeads& heads,
                                   BlockMask mask, DType dtype) {
  auto random = [&](Shape shape, uint64_t seed) {
    return random_tensor(ctx, std::move(shape), seed).to(DType::kBF16).to(dtype);
  };
  return {.input = {.q_THD = random({T, heads.H, heads.D}, 1),
                    .k_SKD = random({S, heads.K, heads.D}, 2),
                    .v_SKV = random({S, heads.K, heads.V}, 3),
                    .kv_head = grouped_kv_heads(heads.H, heads.K),
                    .scale = 1 / std::sqrt(static_cast<double>(heads.D))},
          .mask = std::move(mask),
          .do_THV = random({T, heads.H, heads.V}, 4)};
}

// The gradients are sums in the dtype of lse.
inline SoftmaxResult run(Context& ctx, const SoftmaxBlock& kernel, const SoftmaxProblem& problem) {
  const SoftmaxBlockOutput output = kernel.forward(ctx, problem.input, problem.mask);
  const DType sums = output.lse_TH.dtype();
  SoftmaxBlockBackward gradients = {.do_THV = problem.do_THV,
                                    .lse_TH = output.lse_TH,
                                    .delta_or_o = softmax_delta(ctx, output.o_THV, problem.do_THV),
                                    .dq_THD = ctx.zeros(problem.input.q_THD.shape(), sums),
                                    .dk_SKD = ctx.zeros(problem.input.k_SKD.shape(), sums),
                                    .dv_SKV = ctx.zeros(problem.input.v_SKV.shape(), sums)};
  kernel.backward(ctx, problem.input, problem.mask, gradients);
  return {output, gradients};
}

// Documents of these lengths laid end to end, attending to themselves.
inline BlockMask documents(const std::vector<int64_t>& lengths, int64_t window = 0) {
  std::vector<Segment> segments;
  int64_t slot = 0;
  for (size_t d = 0; d < lengths.size(); slot += lengths[d++])
    if (lengths[d] > 0)
      segments.push_back({.document = static_cast<int64_t>(d), .length = lengths[d], .slot = slot});
  return document_mask(segments, segments, {.window = window});
}

inline int64_t total(const std::vector<int64_t>& lengths) {
  int64_t sum = 0;
  for (int64_t length : lengths) sum += length;
  return sum;
}

}  // namespace longship::testing
