// "usp": Ulysses x ring on a 2-D grid of ranks (USP, Fang and Zhao 2024, arXiv 2405.07719; the
// 2D-Attention of LoongTrain, Gu et al. 2024, arXiv 2406.18485), for any number of heads.
//
// P = u r ranks. Groups of u adjacent ranks deal their heads and bring their tokens together as in
// "ulysses"; the r ranks at the same place of the r groups then pass keys and values of their heads
// round as in "ring", as if each group were one rank with all its tokens; the output goes home by
// the reverse all-to-all. u = P is ulysses and u = 1 is ring; a prime P leaves only these two.
//
// Sent by rank r at place i of its group, with s_p tokens, h_p query heads and k_p KV heads at
// place p of the group and S_j tokens on the group j places before it, e bytes an element and g of
// the accumulator (4; 8):
//   "usp.fwd"  sum over p != i of  s_i (h_p D + k_p (D + V)) e + s_p h_i V e
//            + sum over j = 0 .. n-1 of  S_j k_i (D + V) e
//   "usp.bwd"  sum over p != i of  s_i h_p V e + s_p (h_i D e + k_i (D + V) f)
//            + sum over j = 0 .. n-1 of  S_j k_i (D + V) (e + g),  + S_n k_i (D + V) g if n > 0
// where f = g if places share a KV head and e otherwise, and n = ring_steps() <= r - 1 of the
// coarsened plan. Nothing but the all-to-all is sent at a place that has no heads.
//
// Memory beside inputs and output: q, k, v and o of the heads at this place for the tokens of the
// group, and what the ring needs for them.
#pragma once

#include <cstdint>

namespace longship {

// How ranks are arranged: groups of `ulysses` ranks, of which there are `ring`.
struct UspDegrees {
  int ulysses = 1;
  int ring = 1;
  bool operator==(const UspDegrees&) const = default;
};

// What one rank sends on average per layer, forward and backward, for P ranks of s tokens in bf16
// with fp32 sums, in units of s (D + V) e / P bytes. With K_u >= K the KV heads dealt to the u
// places of a group, shared ones as often as they are dealt, that is P times
//   (u-1)/u (H + K_u) + (r-1) K_u                           forward: all-to-all, ring
//   (u-1)/u (H + f K_u) + (r-1) K_u + 2 r K_u [if r > 1]    backward; f = 2 if heads are shared
// Whole numbers, so that every rank compares alike.
int64_t usp_traffic(int64_t num_heads, int64_t num_kv_heads, UspDegrees degrees);

// The arrangement of `num_ranks` ranks that sends least, by usp_traffic(); of equals the one with
// the larger Ulysses degree. Only Ulysses degrees that divide the query heads are considered (1
// does): shares of unequal size would leave ranks waiting, which costs more than bytes.
UspDegrees choose_usp_degrees(int64_t num_heads, int64_t num_kv_heads, int num_ranks);

}  // namespace longship
