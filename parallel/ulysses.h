// "ulysses": DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv 2309.14509) for any number of heads.
//
// An all-to-all turns "my tokens, all heads" into "all tokens, my heads", attention runs locally on
// whole heads, and the reverse all-to-all brings the output home. Query heads are dealt in runs as
// equal as possible; a rank is sent each KV head that its query heads use, once, although other
// ranks may be sent it too. Rows arrive in (rank, slot) order, which the mask describes as it is.
//
// Sent by rank r, with s_p tokens, h_p query heads and k_p KV heads on rank p, e bytes an element:
//   "ulysses.fwd"  sum over p != r of  s_r (h_p D + k_p (D + V)) e    q, k, v
//                                    + s_p h_r V e                    o
//   "ulysses.bwd"  sum over p != r of  s_r h_p V e                    do
//                                    + s_p (h_r D e + k_r (D + V) g)  dq, dk, dv
// where g = e, or the accumulator's size (4; 8 in fp64) when some KV head is used by several ranks:
// its gradients are then added in ascending rank order before they are rounded.
#pragma once

#include <cstdint>
#include <vector>

namespace longship {

struct HeadRange {
  int64_t begin = 0, count = 0;
  int64_t end() const { return begin + count; }
  bool operator==(const HeadRange&) const = default;
};

// What one rank computes.
struct HeadShare {
  HeadRange query;  // none where there are more ranks than heads
  HeadRange kv;     // those that the query heads use
};

// Rank r of P gets the query heads [H r / P, H (r + 1) / P). num_kv_heads divides num_heads.
std::vector<HeadShare> deal_heads(int64_t num_heads, int64_t num_kv_heads, int num_ranks);

}  // namespace longship
