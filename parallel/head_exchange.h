// The all-to-alls between the two ways of sharing attention, "my tokens, all heads" and "all
// tokens, my heads" (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509), for any number of
// heads: they are dealt in runs as equal as possible.
//
// Names: T tokens of this rank, S tokens of all ranks of the group, H all heads, N the heads of
// this rank, X the size of one head.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "parallel/group.h"
#include "parallel/head_range.h"
#include "runtime/context.h"

namespace longship {

// What one rank computes.
struct HeadShare {
  HeadRange query;  // none where there are more ranks than heads
  HeadRange kv;     // those that the query heads use
  bool operator==(const HeadShare&) const = default;
};

// Rank r of P gets the query heads [H r / P, H (r + 1) / P). num_kv_heads divides num_heads.
std::vector<HeadShare> deal_heads(int64_t num_heads, int64_t num_kv_heads, int num_ranks);

// The shares in groups that travel one after another, so that one is computed while the next is on
// its way: [group][rank], whole KV heads with the query heads that use them. As many groups as the
// rank with the fewest KV heads can fill, up to `max_groups`; one where ranks share a KV head.
std::vector<std::vector<HeadShare>> in_groups(const std::vector<HeadShare>& shares,
                                              int64_t max_groups);

// A tensor on its way.
class Transfer {
 public:
  Transfer(Tensor received, Work work) : received_(std::move(received)), work_(std::move(work)) {}

  // Waits for the tensor and hands it over; what was sent is freed.
  Tensor arrive();

 private:
  Tensor received_;
  Work work_;
};

// Moves one kind of head (query or KV) between the two ways of sharing.
class HeadExchange {
 public:
  // Rank p of `group` has tokens_per_rank[p] tokens and gets the heads ranges[p]; ranges of several
  // ranks may overlap.
  HeadExchange(Group group, std::vector<int64_t> tokens_per_rank, std::vector<HeadRange> ranges);

  // x_THX (contiguous) -> x_SNX, rows in (rank, slot) order.
  Transfer to_heads(const Context& ctx, std::string_view label, const Tensor& x_THX) const;

  // The way back. Heads of several ranks arrive several times; place() or add() puts the blocks in
  // place.
  Transfer to_tokens(const Context& ctx, std::string_view label, const Tensor& x_SNX) const;

  // Writes the blocks of to_tokens() to their heads of x_THX, when each was on one rank.
  void place(const Tensor& blocks, const Tensor& x_THX) const;
  // Adds in ascending rank order what several ranks return for one head; fp32 or fp64.
  void add(const Context& ctx, const Tensor& blocks, const Tensor& x_THX) const;
  // place() in a new tensor, when ranks had all heads.
  Tensor collect(const Context& ctx, const Tensor& blocks, int64_t num_heads, int64_t size) const;

  int64_t num_local_tokens() const { return tokens_per_rank_[static_cast<size_t>(group_.rank())]; }

 private:
  const HeadRange& mine() const { return ranges_[static_cast<size_t>(group_.rank())]; }
  int64_t num_dealt() const;
  std::vector<int64_t> elements_by_head(int64_t elements_per_head) const;
  std::vector<int64_t> elements_by_token(int64_t size) const;

  Group group_;
  std::vector<int64_t> tokens_per_rank_;
  std::vector<HeadRange> ranges_;
};

// Who computes which heads of a call, and how tensors get there and back.
struct HeadRoute {
  HeadShare mine;
  bool shares_kv = false;  // some KV head is used by several ranks
  HeadExchange query;
  HeadExchange kv;

  // Rank p of `group` has tokens_per_rank[p] tokens and computes shares[p].
  static HeadRoute of(const Group& group, const std::vector<int64_t>& tokens_per_rank,
                      const std::vector<HeadShare>& shares);

  // x_TKX from the blocks that kv.to_tokens() brought, added up where heads are shared.
  Tensor join_kv(const Context& ctx, const Tensor& blocks, int64_t num_kv_heads,
                 int64_t size) const;
};

}  // namespace longship
