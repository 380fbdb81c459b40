// Linear attention without the delta rule on the CPU, in chunks of 64 tokens: no gate (linear
// attention, Katharopoulos et al. 2020, arXiv 2006.16236; BASED, 2402.18668), a constant gate per
// head (RetNet, 2307.08621; lightning attention, 2401.04658), a scalar gate (simple-GLA; Mamba-2,
// 2405.21060) and a vector gate (GLA, 2312.06635; HGRN-2, 2404.07904).
#pragma once

#include "attention/linear/linear_kernel.h"

namespace longship {

// For any key size, value size and number of heads; beta_TH must be undefined. States, scores and
// sums are fp32, or fp64 for fp64 inputs. Summaries are identity (no gate), scalar (constant and
// scalar gates) or diagonal (vector gates); the R of a segment at position 0 of its document is
// left 0: nothing precedes it. Constant gates have no gradient. What needs no walk along the chunks
// is shared by (chunk, head), the walks by (segment, head, columns of the state); every element is
// summed by one thread in a fixed order, so results do not depend on the number of threads. Bad
// shapes and dtypes throw Error(kInternal).
class DecayKernel final : public LinearKernel {
 public:
  std::unique_ptr<LinearForward> forward(Context& ctx, const LinearInput& input,
                                         std::span<const Segment> segments,
                                         std::span<const int64_t> cut) const override;
  std::unique_ptr<LinearBackward> backward(Context& ctx, const LinearInput& input,
                                           std::span<const Segment> segments,
                                           std::span<const int64_t> cut, const Tensor& states_NHKV,
                                           const Tensor& do_THV) const override;
};

}  // namespace longship
