// SequencePlan: which rank holds which tokens of a packed batch. Everything that depends on a
// token's place (positions, document masks, halos, state hand-overs) reads this one table.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "parallel/group_rows.h"
#include "runtime/context.h"
#include "runtime/memo.h"

namespace longship {

enum class Layout {
  kContiguous,  // rank r holds [S*r/P, S*(r+1)/P)
  kZigzag,      // 2P chunks; rank r holds chunks r and 2P-1-r: equal work under a causal mask
};
std::string_view layout_name(Layout layout);

// A longest run of tokens of one document that are neighbours both in the batch and on their rank:
// it never crosses a document border, and chunks that adjoin on one rank (the two of the last rank
// in zigzag) share a segment.
struct Segment {
  int64_t document = 0;      // index in the batch
  int64_t position = 0;      // of the first token, within the document
  int64_t global_begin = 0;  // of the first token, within the batch
  int64_t length = 0;        // > 0
  int64_t slot = 0;          // local row of the first token on its rank

  bool operator==(const Segment&) const = default;
};

// Segments in batch order, in which pieces that lie end to end both in a document and in their rows
// are one.
std::vector<Segment> joined(std::vector<Segment> segments);

// A packed batch is `num_documents` documents laid end to end: document d is the tokens
// [cu_seqlens[d], cu_seqlens[d+1]). Documents have any length >= 0; shards may be uneven and even
// empty: chunk i of n is [S*i/n, S*(i+1)/n), rounded down. A plan is a value, and copies share its
// table; it is the same on every rank but for rank().
class SequencePlan {
 public:
  // cu_seqlens: never falling, first element 0. Throws Error(kConfig) otherwise, or when rank is
  // not in [0, num_ranks).
  static SequencePlan make(std::vector<int64_t> cu_seqlens, Layout layout, int num_ranks, int rank);
  // One rank holding everything.
  static SequencePlan local(std::vector<int64_t> cu_seqlens) {
    return make(std::move(cu_seqlens), Layout::kContiguous, 1, 0);
  }

  Layout layout() const { return table_->layout; }
  int num_ranks() const { return static_cast<int>(table_->segments.size()); }
  int rank() const { return table_->rank; }
  int64_t num_tokens() const { return cu_seqlens().back(); }
  int64_t num_documents() const { return static_cast<int64_t>(cu_seqlens().size()) - 1; }
  const std::vector<int64_t>& cu_seqlens() const { return table_->cu_seqlens; }

  int64_t num_tokens(int rank) const { return tokens_per_rank()[static_cast<size_t>(rank)]; }
  int64_t num_local_tokens() const { return num_tokens(rank()); }
  // Tokens of each rank, in rank order.
  const std::vector<int64_t>& tokens_per_rank() const { return table_->num_tokens; }

  // The segments of a rank, in the order of their slots.
  std::span<const Segment> segments(int rank) const {
    return table_->segments[static_cast<size_t>(rank)];
  }
  std::span<const Segment> local_segments() const { return segments(rank()); }

  // The plan as seen by groups of `ranks_per_group` adjacent ranks (a divisor of num_ranks()) that
  // hold their tokens together, in batch order whatever the layout: its rank j is the group j, and
  // its rank() the group of this rank. layout() is that of the ranks.
  SequencePlan coarsened(int ranks_per_group) const;
  // Where the tokens of the ranks of this rank's group are there, for the same `ranks_per_group`.
  std::shared_ptr<const GroupRows> rows_in_group(int ranks_per_group) const;

  // Position within its document of every local token, [T] i64. On the host: in ctx.memory if that
  // is the host's.
  Tensor positions(const Context& ctx) const;

  // The rows of a whole-batch tensor (dim 0 = num_tokens()) that this rank holds, in slot order.
  Tensor shard(const Context& ctx, const Tensor& whole) const;

  // What others derive from this plan, such as masks: made once, however many layers ask for it.
  const Memo& memo() const { return table_->memo; }

 private:
  struct Table {
    Layout layout = Layout::kContiguous;
    int rank = 0;
    std::vector<int64_t> cu_seqlens;
    std::vector<std::vector<Segment>> segments;
    std::vector<int64_t> num_tokens;
    Memo memo;
  };
  SequencePlan coarsen(int ranks_per_group) const;

  std::shared_ptr<const Table> table_ = std::make_shared<Table>();
};

}  // namespace longship
