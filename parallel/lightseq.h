// "lightseq": DistFlashAttn (Li et al. 2023, arXiv 2310.03294), load-balanced causal attention on
// the contiguous layout, here for any number of ranks.
//
// Query block i and key block j <= i, t = i - j ranks apart, have to meet. While t is at most half
// of the ranks, the keys go to the queries: rank i computes them at step t, as in a ring. The first
// t ranks have no such keys; they help: at step t, rank j computes the queries of rank j + P - t
// over its own keys and returns a partial output with its lse. So all pairs are done in
// floor(P / 2) + 1 steps (lightseq_steps()) in which every rank computes one block:
//
//   step      rank r                                  query block, key block
//   0         every rank                              (r, r)
//   t < P/2   r >= t, keys of r - t are sent to it    (r, r - t)
//             r < t, helps the rank P - t after it    (r + P - t, r)
//   P/2       the same, for even P: both are the same pairs, P/2 apart. The helper takes the first
//             half of the queries that see keys, rounded down, and the owner the others. (The
//             paper leaves the first P/2 ranks idle at this step.)
//
// For one document and shards of s tokens every rank computes s (s + 1) / 2 + (P - 1) s^2 / 2
// scores, give or take half a row where s is odd and P even; where shards have s or s + 1 tokens,
// every rank is within 3 / s of the mean. Documents and windows leave pairs out, and then what is
// left may be unequal. The zigzag layout, and attention in both directions, balance ring and the
// others by themselves, so that there is nothing to help with: both are refused.
//
// Keys and queries go straight to the rank that uses them, one step ahead of their use; results go
// back while the next step is computed. Of both, the smallest range of rows that covers those which
// the pair needs, Visibility::between(i, j), and nothing of a pair that the mask hides. Owners
// merge in the accumulator dtype: their own partial of a step first, then the helper's of the step
// before, whatever arrives first; o is rounded once. In the backward helpers get q, do, lse and
// delta and return dq; dk and dv of the own keys stay; owners return those of keys that were sent
// to them.
//
// With e bytes an element, g of the accumulator (4; 8), f of what the kernel gives (g; e where it
// rounds to that anyway), rank r sends, over the pairs of the table, of n_q query rows and n_k key
// rows,
//   "lightseq.fwd"  n_k K (D + V) e          for keys of r, computed by the queries' owner
//                 + n_q H D e                for queries of r, computed by a helper
//                 + n_q H (V f + g)          for pairs that r helped with
//   "lightseq.bwd"  n_k K (D + V) e   +   n_q H ((D + V) e + 2 g)   +   n_q H D f   likewise, and
//                 + n_k K (D + V) f          for keys sent to r
// (where the kernel makes delta itself, o travels in its place: V e instead of one g).
// For one document and equal shards, every rank sends keys or queries at each step but the first:
// keys at step t if r + t < P, else queries, half of them at step P/2.
//
// Memory beside inputs and output, for s the largest shard: what came for this step and comes for
// the next, 2 s max(K (D + V), H D) e, and four outputs with lse, s H (V + 1) g + 3 s H (V f + g)
// (merged, computed, leaving, arriving); in the backward 2 s max(K (D + V) e,
// H ((D + V) e + 2 g)), delta, dq, dk, dv, and four results, 4 s max(K (D + V), H D) f. It does not
// grow with the number of ranks.
#pragma once

#include "parallel/visible_rows.h"

namespace longship {

// A pair of blocks, or the part of it that one rank computes: local rows of both ranks.
struct LightseqTask {
  int query_rank = 0, key_rank = 0;
  RowRange queries, keys;
  bool empty() const { return queries.count == 0; }
};

// floor(P / 2) + 1.
int lightseq_steps(int num_ranks);

// What `rank` computes at a step, by the table above; the other rank of the task, if it is not
// `rank` twice, sends its rows. The first step is about all rows.
LightseqTask lightseq_task(const SequencePlan& plan, const Visibility& visibility, int step,
                           int rank);

}  // namespace longship
