// Which keys the queries of packed documents see, and that as rectangles which kernels can walk.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "parallel/sequence_plan.h"

namespace longship {

// A query at position i of its document sees the key at position j of the same document iff
//     (not causal or j <= i)  and  (window == 0 or |i - j| < window or j < num_sink_tokens).
// With `anchor`, every query of every document sees the first token of the batch as well.
struct MaskRule {
  bool causal = true;
  int64_t window = 0;           // positions that a query reaches, its own included; 0 = all
  int64_t num_sink_tokens = 0;  // StreamingLLM, Xiao et al. 2023, arXiv 2309.17453
  bool anchor = false;          // AnchorAttention, Wang et al. 2024, arXiv 2411.13476

  auto operator<=>(const MaskRule&) const = default;
};

// A rectangle of the score matrix between one run of queries and one run of keys. Query row
// q_begin + i (position q_position + i) may see key row k_begin + j (position k_position + j) iff
//     k_position + j <= q_position + i                    (if causal)
//     and |q_position + i - (k_position + j)| < window    (if window > 0).
struct MaskPiece {
  int64_t q_begin = 0, q_length = 0, q_position = 0;
  int64_t k_begin = 0, k_length = 0, k_position = 0;
  bool causal = true;
  int64_t window = 0;

  // Every query sees every key, and positions do not matter.
  bool full() const { return !causal && window == 0; }
  // The same rule once more: key position - query position is in [lowest(), highest()]. Sides
  // without a limit are far beyond any position, and far from overflow.
  int64_t lowest() const;
  int64_t highest() const;

  bool operator==(const MaskPiece&) const = default;
};

// The pieces of a block, sorted by q_begin and then by the place of their keys in the batch: a
// kernel that walks them in order adds keys in ascending order. The query ranges of two pieces are
// the same or disjoint, and so are their key ranges; no rectangle comes twice. Query rows that no
// piece covers see nothing.
struct BlockMask {
  std::vector<MaskPiece> pieces;
  Memo memo = {};  // of what kernels derive from the pieces, which do not change after that

  bool empty() const { return pieces.empty(); }
};

// The one place where masks come from: the pieces between query segments and key segments of a
// batch (slots are row numbers) under `rule`. Pairs that see nothing are left out; pieces are
// `causal` or have a `window` only where that hides something, so that a kernel can take what is
// full() without a test. Sink tokens and the anchor are pieces of their own, and never twice in a
// query's sight.
BlockMask document_mask(std::span<const Segment> queries, std::span<const Segment> keys,
                        const MaskRule& rule);

// The same between the queries of one rank of `plan` and the keys of another or the same; made once
// for a plan and its copies.
std::shared_ptr<const BlockMask> rank_mask(const SequencePlan& plan, int query_rank, int key_rank,
                                           const MaskRule& rule);

}  // namespace longship
