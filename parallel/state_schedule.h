// The schedules that carry linear-attention states across the ranks of a sequence-parallel group.
//
// A document that is cut by rank borders is a row of segments, and its state visits them in order
// (backward: in reverse order, through the transposed maps). Segment n leaves
//   S_out(n) = M(n) S_in(n) + B(n)
// for segment n + 1. Segments that hold a whole document take no part, and states never leave their
// document.
//
// Bits. "lasp" walks every state through the tokens, as one rank does: where rank borders lie on a
// document's chunk grid, outputs and gradients have the bits of one rank, on any number of ranks
// and either layout. "lasp2" and "zeco" carry composed maps instead, both in the same order: they
// have the bits of each other everywhere, those of one rank for documents of two segments (the one
// map there is is applied to nothing), and differ for longer ones as sums in another order do. No
// composition could have the walk's bits: it rounds a segment's tokens before it knows their state.
//
// Let c be the number of this rank's segments that continue on another segment (backward: that are
// continued from one): at most one on the contiguous layout, two on zigzag. States [H, K, V] have e
// bytes an element. Sent by a rank, under the strategy's label ("lasp.fwd", "lasp.bwd", ...):
//   "lasp", "zeco"   c H K V e
//   "lasp2"          (P - 1) c H (K V + m) e, m = 0, 1, K, K^2 elements of a head's M
//
// All ranks of the group call carry() with the same plan, direction, sizes and order of calls, and
// then wait(); a rank without cut segments too, with tensors of no rows.
#pragma once

#include <cstdint>
#include <memory>

#include "parallel/affine_state.h"
#include "parallel/group.h"

namespace longship {

// LASP (arXiv 2404.02882), a chain of ranks: receive S_in, walk it through the segment's tokens,
// send it on. The first hop leaves in carry(), the others run in wait(), one after another: a
// document over n segments takes n - 1, each a walk and a state's journey. For the bits of one
// rank, and for few ranks; no M is ever formed, which the delta rule saves a walk of K columns.
std::unique_ptr<StateSchedule> make_lasp(Group sp);

// LASP-2 (arXiv 2502.07563), one all-gather of the maps [M | B]: posted in carry() and consumed in
// wait(), where every rank composes the maps before its own. One step whatever the number of ranks,
// but traffic that grows with it, and for a dense M ships K^2 elements more for each K V.
std::unique_ptr<StateSchedule> make_lasp2(Group sp);

struct ZecoOptions {
  // Column blocks of a state, > 0; at most V are made. With n of them a document over P ranks takes
  // P - 2 + n rounds that each move 1/n of a state: (1 + (P - 2) / n) T + (P - 2 + n) L for a state
  // that travels in T and messages of latency L. More blocks hide the length of the chain, fewer
  // the latency; the best n is sqrt((P - 2) T / L), about 8 for 1 MiB at 10 GB/s, 10 us, 8 ranks.
  int64_t num_blocks = 8;
};

// ZeCO's All-Scan (arXiv 2507.01004), a chain of ranks through which the state goes in blocks:
// while one block is transformed and sent on, the next arrives. The paper splits the key rows of
// the state and so needs a diagonal M. Here the value columns are split, which no M mixes, so that
// dense maps (delta rule) scan too: M is applied where it was made and only S travels.
//
// A thread of its own drives the scan from carry() on, over a group split off here: this call is
// collective, and the thread's arithmetic runs beside the caller's. One scan of a schedule may be
// on its way at a time: carry() throws Error(kInternal) while earlier states are not waited for.
// Errors of the thread are thrown by wait(). PendingStates that are dropped finish their scan.
// What the thread waits for messages counts in CommStats::wait_s, though the caller may compute.
std::unique_ptr<StateSchedule> make_zeco(const Group& sp, ZecoOptions options = {});

// One rank that holds the whole plan: no document is cut, so there are no states to carry. A plan
// over more ranks throws Error(kInternal).
std::unique_ptr<StateSchedule> make_local_states();

}  // namespace longship
