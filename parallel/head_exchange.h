// The all-to-alls between the two ways of sharing attention, "my tokens, all heads" and "all
// tokens, my heads" (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509), for any number of
// heads: they are dealt in runs as equal as possible. Nothing is packed: messages leave from where
// a rank's heads lie among the others, and arrive where its tokens lie in batch order, a message
// for each run of tokens (two of a rank on zigzag).
//
// Names: T tokens of this rank, S tokens of all ranks of the group, H all heads, N the heads of
// this rank, X the size of one head.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "parallel/group.h"
#include "parallel/group_rows.h"
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

// Three quarters of the journey hidden; more groups would make messages and kernel calls small.
constexpr int64_t kMaxUlyssesGroups = 4;

// How many groups of heads pay for a rank that computes `head_rows` query rows, summed over its
// heads, each of which sees `keys_per_query` keys in the mean: 1 to kMaxUlyssesGroups.
int64_t num_groups_that_pay(DeviceKind device, int64_t head_rows, double keys_per_query);

// The shares in groups that travel one after another, so that one is computed while the next is on
// its way: [group][rank], whole KV heads with the query heads that use them. As many groups as the
// rank with the fewest KV heads can fill, up to `max_groups`; one where ranks share a KV head.
std::vector<std::vector<HeadShare>> in_groups(const std::vector<HeadShare>& shares,
                                              int64_t max_groups);

// How one kind of head (query or KV) is shared.
class HeadExchange {
 public:
  // Rank p of `group` has the tokens rows->of_rank[p] and gets the heads ranges[p]; ranges of
  // several ranks may overlap.
  HeadExchange(Group group, std::shared_ptr<const GroupRows> rows, std::vector<HeadRange> ranges);

  const Group& group() const { return group_; }
  // Some head is on several ranks.
  bool is_shared() const { return is_shared_; }

  // Adds to `batch` the messages that bring x_THX to x_SNX, which is returned; its rows are in
  // batch order.
  Tensor to_heads(const Context& ctx, const Tensor& x_THX, std::vector<P2P>& batch) const;
  // The way back to where the heads lie in x_THX, if none is shared.
  void to_tokens(const Tensor& x_SNX, const Tensor& x_THX, std::vector<P2P>& batch) const;
  // The way back of shared heads: to one block [T, heads, X] from each rank, which are returned one
  // after another.
  Tensor to_blocks(const Context& ctx, const Tensor& x_SNX, std::vector<P2P>& batch) const;
  // Adds them to x_THX, in fp32 or fp64, in ascending rank order.
  void add_blocks(const Context& ctx, const Tensor& blocks, const Tensor& x_THX) const;

 private:
  const HeadRange& mine() const { return ranges_[static_cast<size_t>(group_.rank())]; }
  const std::vector<GroupRows::Run>& runs_of(int rank) const {
    return rows_->of_rank[static_cast<size_t>(rank)];
  }
  const std::vector<GroupRows::Run>& own_runs() const { return runs_of(group_.rank()); }
  void send_tokens_of(int rank, const Tensor& x_SNX, std::vector<P2P>& batch) const;
  int64_t num_local_tokens() const;
  // Calls f(rank, its block).
  template <class F>
  void for_each_block(const Tensor& blocks, int64_t size, F&& f) const;

  Group group_;
  std::shared_ptr<const GroupRows> rows_;
  std::vector<HeadRange> ranges_;
  bool is_shared_;
};

// Tensors on their way together.
class HeadTransfer {
 public:
  explicit HeadTransfer(Group group) : group_(std::move(group)) {}

  // x_THX -> the x_SNX returned, which is there after wait().
  Tensor to_heads(const Context& ctx, const HeadExchange& heads, const Tensor& x_THX);
  // x_SNX -> its heads in x_THX, which is there after arrive(). Shared heads are added to what is
  // there.
  void to_tokens(const Context& ctx, const HeadExchange& heads, const Tensor& x_SNX,
                 const Tensor& x_THX);
  // Sends what was named since the last time, as one exchange. There may be several.
  void depart(std::string_view label);

  // Waits for all that has departed; what was sent is freed. May be called again.
  void wait();
  // The same, and shared heads are summed.
  void arrive(const Context& ctx);

 private:
  struct Sum {
    HeadExchange heads;
    Tensor blocks, x_THX;
  };

  Group group_;
  std::vector<P2P> batch_;
  std::vector<Work> works_;
  std::vector<Sum> sums_;
};

// Who computes which heads of a call, and how tensors get there and back.
struct HeadRoute {
  HeadShare mine;
  HeadExchange query;
  HeadExchange kv;

  // Rank p of `group` has the tokens rows->of_rank[p] and computes shares[p].
  static HeadRoute of(const Group& group, const std::shared_ptr<const GroupRows>& rows,
                      const std::vector<HeadShare>& shares);

  const Group& group() const { return query.group(); }
};

}  // namespace longship
