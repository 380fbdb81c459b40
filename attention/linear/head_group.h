// What linear Ulysses deals with beside kernels and messages: the order of tokens on whole
// sequences, and which key heads the heads of a rank read.
//
// Names: S tokens of all ranks; g key heads and h state heads of this rank in a group.
#pragma once

#include <span>
#include <vector>

#include "attention/linear/linear_kernel.h"
#include "parallel/head_exchange.h"

namespace longship {

// All tokens of a batch, as they arrive from the ranks, in (rank, slot) order, and in batch order.
// The two differ on zigzag only.
class WholeSequence {
 public:
  explicit WholeSequence(const SequencePlan& plan)
      : plan_(plan), whole_plan_(SequencePlan::local(plan.cu_seqlens())) {}

  std::span<const Segment> segments() const { return whole_plan_.local_segments(); }
  Tensor to_batch_order(const Context& ctx, const Tensor& x) const;
  Tensor to_rank_order(const Context& ctx, const Tensor& x) const;

 private:
  SequencePlan plan_, whole_plan_;
};

// Heads that travel together: how they get to whole sequences and back, and which key head each of
// this rank's reads.
class HeadGroup {
 public:
  HeadGroup(HeadRoute route, int64_t heads_per_key_head);

  const HeadRoute& route() const { return route_; }
  // This rank has none of the heads.
  bool is_idle() const { return key_head_.empty(); }

  // The kernel's rule is one key head for every h / g heads. Where heads are dealt across that,
  // each reads a copy of its own.
  LinearInput as_kernel_takes(const Context& ctx, LinearInput whole) const;
  // The adjoint: adds the gradients of copies, by ascending head.
  void join_copies(const Context& ctx, LinearGradients& gradients) const;

 private:
  bool follows_rule() const;
  Tensor repeated(const Context& ctx, const Tensor& x_SgK) const;
  Tensor summed(const Context& ctx, const Tensor& dx_ShK) const;

  HeadRoute route_;
  std::vector<int64_t> key_head_;  // of each of this rank's heads, among this rank's key heads
};

// In the order in which they travel.
std::vector<HeadGroup> make_head_groups(const Group& sp, const SequencePlan& plan,
                                        int64_t num_key_heads, int64_t num_heads);

}  // namespace longship
