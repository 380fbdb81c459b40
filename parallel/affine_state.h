// The contract between linear-attention kernels and the schedules that carry their state across
// ranks. A run of tokens maps its incoming state affinely, S_out = M S_in + B, so schedules move
// and compose pairs (B, M) and never look inside a kernel.
//
// Shapes: N cut segments of this rank (parallel/cut_segments.h), H state heads, K key size, V value
// size. Segments that hold a whole document have no row: no state enters or leaves them.
#pragma once

#include <memory>

#include "parallel/sequence_plan.h"
#include "runtime/context.h"

namespace longship {

// How a run of tokens transforms the state it receives.
enum class Transition {
  kIdentity,  // plain linear attention, BASED; `m` is undefined
  kScalar,    // lightning, RetNet, Mamba-2, simple-GLA: m is [N, H]
  kDiagonal,  // GLA, HGRN-2: m is [N, H, K]
  kDense,     // DeltaNet, Gated DeltaNet, KDA: m is [N, H, K, K], S_out = m S_in + B
};

// One affine map per cut segment, in their order. fp32, or fp64 for fp64 models.
struct AffineSummary {
  Transition transition = Transition::kIdentity;
  Tensor m;
  Tensor b_NHKV;
};

// The cut segments of this rank as what they are to states, in one forward or backward.
class SegmentMaps {
 public:
  virtual ~SegmentMaps() = default;
  // [N, H, K, V] zeros of the dtype of states.
  virtual Tensor zero_states(const Context& ctx) const = 0;
  // Every segment from its first token to its last at once: one product with a state later, and
  // rounded otherwise than a walk.
  virtual AffineSummary summary(Context& ctx) = 0;
  // out_HKV = what segment `row` makes of in_HKV (undefined: of zeros), in the steps in which a
  // rank that holds the whole document goes through these tokens. Both contiguous.
  virtual void walk(const Context& ctx, int64_t row, const Tensor& in_HKV,
                    const Tensor& out_HKV) = 0;
};

// Forward: S_in of a segment is the state left by the earlier tokens of its document, zero at the
// document's start. Backward: the gradient dS_out of a segment is what later tokens of its document
// send back, zero at the document's end:  dS_out(n) = M(n+1)^T dS_out(n+1) + R(n+1), where R, the
// gradient of S_in when dS_out is zero, travels as `b_NHKV`.
enum class ScanDirection { kForward, kBackward };

// States on their way. Work that does not need them may run between carry() and wait().
class PendingStates {
 public:
  virtual ~PendingStates() = default;
  // [N, H, K, V]: S_in (forward) or dS_out (backward) of each cut segment. Call once.
  virtual Tensor wait() = 0;
};

class StateSchedule {
 public:
  virtual ~StateSchedule() = default;

  // Starts carrying states along every document of `plan`, in ascending (forward) or descending
  // (backward) position. Composition is done in a fixed order, never in the order of arrival.
  // `maps` outlives the pending states.
  virtual std::unique_ptr<PendingStates> carry(Context& ctx, SegmentMaps& maps,
                                               const SequencePlan& plan,
                                               ScanDirection direction) const = 0;
};

}  // namespace longship
