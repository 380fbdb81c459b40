// LinearKernel: the local part of a linear-attention layer, as the affine-state contract needs it:
// first everything that needs no state, then a summary per segment, then the outputs given states.
//
// Per head, with log-gates g <= 0, key size K, value size V and scale s:
//   S_t = decay(g_t) applied to S_{t-1}, then + k_t v_t^T, or the delta rule
//   S_t = (I - beta_t k_t k_t^T) decay(g_t) S_{t-1} + beta_t k_t v_t^T;      o_t = s S_t^T q_t
//
// Shapes: T local tokens, G query/key heads, H value/state heads (H % G == 0; state head h reads
// query/key head h / (H / G)), N cut segments: those that states enter or leave, as other ranks
// hold parts of their documents (parallel/cut_segments.h). Chunks lie on a grid of positions within
// the document (multiples of the chunk size), so the grid does not depend on the number of ranks.
#pragma once

#include <memory>
#include <span>

#include "parallel/affine_state.h"
#include "parallel/sequence_plan.h"

namespace longship {

struct LinearInput {
  Tensor q_TGK;  // fp32, bf16 or fp64; contiguous
  Tensor k_TGK;
  Tensor v_THV;
  // Natural-log decay per token, <= 0, in the accumulator dtype: undefined (none), [H] (constant:
  // lightning, RetNet; no gradient), [T, H] (scalar) or [T, H, K] (vector).
  Tensor gate;
  Tensor beta_TH;  // delta rule only, accumulator dtype, in [0, 2]
  double scale = 1.0;
};

// Accumulator dtype. Undefined where the input is undefined or constant.
struct LinearGradients {
  Tensor dq_TGK;
  Tensor dk_TGK;
  Tensor dv_THV;
  Tensor dgate;
  Tensor dbeta_TH;
};

// One forward on its way: the maps S_out = M S_in + B of its cut segments, at any time before
// outputs() and only where documents cross ranks; the other calls come in this order. Nothing
// precedes a segment at position 0 of its document: kernels may leave its M 0.
class LinearForward : public SegmentMaps {
 public:
  // Work that needs no incoming state; runs while states travel.
  virtual void intra(Context& ctx) = 0;
  // o [T, H, V] in v's dtype, given S_in [N, H, K, V]; the other
  // segments start from zero.
  virtual Tensor outputs(Context& ctx, const Tensor& states_NHKV) = 0;
};

// Likewise. In the summary b = R, the gradient of S_in of each cut segment for dS_out = 0, and m is
// the forward's M; both may be 0 for a segment at position 0, and there is no walk through that.
class LinearBackward : public SegmentMaps {
 public:
  virtual void intra(Context& ctx) = 0;
  // Given dS_out [N, H, K, V].
  virtual LinearGradients gradients(Context& ctx, const Tensor& grad_states_NHKV) = 0;
};

class LinearKernel {
 public:
  virtual ~LinearKernel() = default;
  // `cut`: the indices of the cut segments among `segments`, ascending.
  virtual std::unique_ptr<LinearForward> forward(Context& ctx, const LinearInput& input,
                                                 std::span<const Segment> segments,
                                                 std::span<const int64_t> cut) const = 0;
  // states_NHKV: the S_in of the forward; everything else is computed again from the inputs.
  virtual std::unique_ptr<LinearBackward> backward(Context& ctx, const LinearInput& input,
                                                   std::span<const Segment> segments,
                                                   std::span<const int64_t> cut,
                                                   const Tensor& states_NHKV,
                                                   const Tensor& do_THV) const = 0;
};

}  // namespace longship
