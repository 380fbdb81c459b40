// "gather_kv": all-gather of keys and values by groups of KV heads (Llama 3, Dubey et al. 2024,
// arXiv 2407.21783, section 3.3.2; the softmax layers of LASP-2H, Sun et al. 2025, arXiv
// 2502.07563).
//
// Every rank gathers the keys and values that its queries see, of one group of KV heads at a time,
// and attends over them in one block: nothing is merged, so that o is as exact as on one rank, and
// on the contiguous layout without a window it has the same bits. The next group is on its way
// while the present one is used. The backward gathers again and sends each key's gradients, in the
// accumulator dtype, back to its owner, which adds them in ascending rank order while the next
// group is computed.
//
// From rank p, rank r gets the smallest range of rows that covers all keys its queries see:
// n(r, p) = Visibility::between(r, p).keys.count. Of one document that is nothing for p > r on the
// contiguous layout, and half of the rows of p > r on the zigzag layout. With e bytes an element
// and g of the accumulator (4; 8), rank r sends
//   "gather_kv.fwd"  sum over p != r of  n(p, r) K (D + V) e
//   "gather_kv.bwd"  sum over p != r of  n(p, r) K (D + V) e  +  n(r, p) K (D + V) g
// however the heads are grouped.
//
// Memory beside inputs and output, for groups of h KV heads (c = h H / K query heads), N the sum
// over p of n(r, p) and s the local tokens: keys and values of two groups, 2 N h (D + V) e, what is
// being sent, s h (D + V) e, and q and o of one group, s c (D e + V g); in the backward also the
// gradients of two groups of keys, 2 N h (D + V) g, what arrives, at most P s h (D + V) g, and dq,
// dk and dv of all heads in the accumulator dtype. Groups of one head bound it best and hide most;
// larger ones make longer messages.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/sequence_plan.h"
#include "parallel/visible_rows.h"

namespace longship {

// The keys that one rank gathers, as rows in (rank, slot) order.
struct GatheredKeys {
  // Of each rank: where its rows begin, and which of its rows they are.
  struct Part {
    int64_t first_row = 0;
    RowRange rows;
  };
  std::vector<Part> parts;
  int64_t num_rows = 0;
  // What the rows hold, in batch order; pieces of a document that lie end to end are one segment.
  std::vector<Segment> segments;

  static GatheredKeys of(const SequencePlan& plan, const Visibility& visibility);
};

}  // namespace longship
