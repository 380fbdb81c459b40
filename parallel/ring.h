// "ring": ring attention (Liu et al. 2023, arXiv 2310.01889), balanced by the zigzag layout.
//
// Keys and values travel from rank r to rank r + 1, so that at step t rank r computes its queries
// over the keys of rank r - t (all modulo P): its own first, then the nearest earlier ones, and so
// on. The next keys are on their way while the present ones are used. Partial outputs merge in the
// accumulator dtype in the order of the steps; o is rounded once, at the end. Pairs of ranks that
// the mask hides are not computed, and the ring stops after the last step at which any rank sees
// anything: n = ring_steps() <= P - 1 hops.
//
// In the backward keys and values travel again, and their gradients follow one step behind in the
// accumulator dtype: while a rank computes its part of a gradient, the sum over the ranks before it
// arrives. After the last step the sum goes straight to its owner.
//
// Sent by rank r, with s_p tokens on rank p, e bytes an element and g of the accumulator (4; 8):
//   "ring.fwd"  sum over t = 0 .. n-1 of  s_(r-t) K (D + V) e
//   "ring.bwd"  sum over t = 0 .. n-1 of  s_(r-t) K (D + V) e  +  sum over t = 0 .. n of
//               s_(r-t) K (D + V) g   (nothing when n = 0)
// For equal shards and one document: (P - 1) s K (D + V) e and that plus P s K (D + V) g.
//
// Memory beside inputs and output, for s the largest shard: two buffers of s K (D + V) in the input
// dtype, the running o and one partial; in the backward the two buffers, dq, and three buffers of
// s K (D + V) in the accumulator dtype.
#pragma once

#include <memory>

#include "parallel/document_mask.h"
#include "parallel/resident_schedule.h"

namespace longship {

// Hops that keys make: the largest t for which some rank r sees a key of rank r - t. Less than
// P - 1 where documents or the window are short and no token is seen from afar; but on the zigzag
// layout the second slot of rank r follows one of rank r + 1, which is P - 1 hops away, so that a
// document that goes on into a second slot takes them all.
int ring_steps(const SequencePlan& plan, const MaskRule& rule = {});

// The passes alone, for plans over the ranks of `ring` and for any heads that these ranks share,
// under the labels of the schedule `name`.
std::shared_ptr<const ResidentPasses> make_ring_passes(const char* name, Group ring,
                                                       const SoftmaxBlock& kernel);

}  // namespace longship
