// "halo": sliding-window attention (Beltagy et al. 2020, arXiv 2004.05150) with the halo exchange
// of stencil codes: the keys that the windows of a rank's queries reach on other ranks, and only
// those, come to it straight from their owners.
//
// A query at position i of its document sees the keys at positions j with i - window < j <= i. So
// each run of tokens needs the window - 1 rows of its document before it; where shards are shorter
// than that, they come from several ranks, and each slot of the zigzag layout has a halo of its
// own. Attention in both directions has a halo on both sides; sink tokens and the anchor add a row
// or a few.
//
// A rank computes its queries over its own keys while the halo travels, and then those that reach
// the halo, no others, over the halo; the second partial output is merged into the first in the
// accumulator dtype, and o is rounded once. The backward fetches again, rather than keep the halo
// of every layer, while it computes half of its queries over the own keys, and the other half while
// the gradients of the halo go home, in the accumulator dtype; their owner adds them to its own
// part in ascending rank order. Rows go in one batch of point-to-point messages each way, and a
// rank waits for none but those that its windows reach or that reach into it.
//
// With n(r, p) the rows of rank p whose keys the queries of rank r see, e bytes an element and g of
// the accumulator (4; 8), rank r sends
//   "halo.fwd"  sum over p != r of  n(p, r) K (D + V) e
//   "halo.bwd"  sum over p != r of  n(p, r) K (D + V) e  +  n(r, p) K (D + V) g
// For one document and shards no shorter than the window, every n is window - 1 or 0: one halo per
// rank on the contiguous layout, (window - 1) K (D + V) e, and two on the zigzag layout.
//
// Memory beside inputs and output, for a halo of N rows that M queries reach: N K (D + V) e, the
// running o and its part, (s + M) H (V + 1) g; in the backward the halo, its gradients
// N K (D + V) g, what arrives (as much as was sent), and delta, dq, dk and dv.
#pragma once

#include <span>
#include <vector>

#include "parallel/gathered_keys.h"
#include "parallel/softmax_block.h"

namespace longship {

// What one rank computes, and the keys that it fetches for it.
class Halo {
 public:
  // Local queries over local or fetched keys.
  struct Block {
    RowRange queries;  // local rows; the mask counts from the first of them
    BlockMask mask;
  };

  // `sp` and `plan` must outlive the halo; a rule with a window.
  Halo(const Group& sp, const SequencePlan& plan, const MaskRule& rule);

  const KeyTraffic& traffic() const { return traffic_; }
  // Some local queries over all local keys.
  Block local_block(RowRange queries) const { return block(queries, plan_.local_segments()); }
  // In ascending order of rows; each query that reaches the halo is in one of them.
  const std::vector<Block>& blocks() const { return blocks_; }

 private:
  Block block(RowRange queries, std::span<const Segment> keys) const;

  const SequencePlan& plan_;
  MaskRule rule_;
  KeyTraffic traffic_;
  std::vector<Block> blocks_;
};

}  // namespace longship
