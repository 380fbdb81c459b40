// Cases for the schedules that carry states: random maps of the segments of a packed batch, and the
// states between them by a plain fold over the whole batch.
#pragma once

#include <span>
#include <vector>

#include "parallel/affine_compose.h"
#include "parallel/state_schedule.h"

namespace longship::testing {

inline constexpr int64_t kStateHeads = 2, kStateKeys = 6, kStateValues = 11;

// cu_seqlens of one document, of random documents with some of one token, of one document over at
// least four of four or more ranks, of fewer tokens than ranks, and of nothing at all.
std::vector<std::vector<int64_t>> state_batches();

// Of a segment's M; for kIdentity, which has none, what it would be if it were dense.
Shape shape_of_m(Transition transition);

// The segments of a rank that do not hold a whole document: the only ones with states. By the
// definition, as the schedules' own cut_segments() is tested with it.
std::vector<Segment> cut_of(const SequencePlan& plan, int rank);

// Random maps, of which that of a segment depends on nothing but its place in the batch.
AffineSummary make_summary(const Context& ctx, std::span<const Segment> segments,
                           Transition transition, DType dtype);

// Maps that are given; to walk is to apply them.
class GivenMaps final : public SegmentMaps {
 public:
  GivenMaps(AffineSummary summary, ScanDirection direction)
      : summary_(std::move(summary)), direction_(direction) {}

  Tensor zero_states(const Context& ctx) const override {
    return ctx.zeros(summary_.b_NHKV.shape(), summary_.b_NHKV.dtype());
  }
  AffineSummary summary(Context&) override { return summary_; }
  void walk(const Context& ctx, int64_t row, const Tensor& in_HKV, const Tensor& out_HKV) override {
    apply(ctx, map_of(summary_, row), direction_, in_HKV, out_HKV);
  }

 private:
  AffineSummary summary_;
  ScanDirection direction_;
};

// On the ranks of world().
struct StateCase {
  Transition transition;
  Layout layout;
  ScanDirection direction;
  std::vector<int64_t> cu_seqlens;
  DType dtype = DType::kF32;

  SequencePlan plan() const;
  AffineSummary summary(const Context& ctx) const;
  GivenMaps maps(const Context& ctx) const { return {summary(ctx), direction}; }
  bool forward() const { return direction == ScanDirection::kForward; }
};

// The segments of all ranks in the order in which states travel, and which row of this rank's
// result each of them is (-1: none).
struct StateWalk {
  std::vector<Segment> segments;
  std::vector<int64_t> local_rows;
};

StateWalk walk_of(const StateCase& c);

// The states that enter this rank's segments by the definition, with every rank's maps, in fp64:
// [segments, H, K, V].
Tensor expected_states(const Context& ctx, const StateCase& c);

}  // namespace longship::testing
