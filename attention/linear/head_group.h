// Which key heads the heads of a rank read in linear Ulysses.
//
// Names: S tokens of all ranks; g key heads and h state heads of this rank in a group.
#pragma once

#include <vector>

#include "attention/linear/linear_kernel.h"
#include "parallel/head_exchange.h"

namespace longship {

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
