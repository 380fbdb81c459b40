// The delta-rule kernels on the CPU: DeltaNet (no gate; Yang et al. 2024, arXiv 2406.06484), Gated
// DeltaNet (scalar gate; Yang et al. 2024, 2412.06464) and Kimi Delta Attention (vector gate;
// Moonshot AI 2025, 2510.26692), in chunks of 64 tokens.
#pragma once

#include "attention/linear/linear_kernel.h"

namespace longship {

// For any key size, value size and number of heads. States, factors and sums are fp32, or fp64 for
// fp64 inputs. Summaries are dense; the M of a segment at position 0 of its document, and its R,
// are left 0: nothing precedes it. What needs no walk along the chunks is shared by (chunk, head),
// the walks by (segment, head, columns of the state); every element is summed by one thread in a
// fixed order, so results do not depend on the number of threads. Bad shapes and dtypes throw
// Error(kInternal).
class DeltaKernel final : public LinearKernel {
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
